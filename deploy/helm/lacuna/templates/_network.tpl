{{/* Peers and rules that several NetworkPolicies share. */}}
{{- define "lacuna.toPostgres" }}
{{- if eq .Values.database.mode "bundled" }}
- to:
    - podSelector:
        matchLabels: {{- include "lacuna.selector" (dict "root" . "component" "postgres") | nindent 10 }}
  ports:
    - {port: 5432, protocol: TCP}
{{- else }}
{{- $external := .Values.database.external }}
- to:
    {{- if $external.podSelector }}
    - podSelector:
        matchLabels: {{- toYaml $external.podSelector | nindent 10 }}
      {{- if $external.namespace }}
      namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ $external.namespace | quote }}
      {{- end }}
    {{- end }}
    {{- range $external.cidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    - {port: {{ $external.port }}, protocol: TCP}
{{- end }}
{{- end }}
{{- define "lacuna.toHttps" }}
{{- with .Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- if .Values.networkPolicy.https }}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
  ports:
    - {port: 443, protocol: TCP}
{{- if eq .Values.cloud "gke" }}
# Workload identity.
- to:
    - ipBlock:
        cidr: 169.254.169.254/32
    - ipBlock:
        cidr: 169.254.169.252/32
  ports:
    - {port: 80, protocol: TCP}
    - {port: 988, protocol: TCP}
{{- end }}
{{- if eq .Values.cloud "eks" }}
# Pod identity.
- to:
    - ipBlock:
        cidr: 169.254.170.23/32
  ports:
    - {port: 80, protocol: TCP}
{{- end }}
{{- end }}
{{- end }}
{{- define "lacuna.rayPeers" -}}
- podSelector:
    matchLabels:
      app.kubernetes.io/part-of: lacuna
      app.kubernetes.io/instance: {{ .Release.Name | quote }}
    matchExpressions:
      - {key: app.kubernetes.io/component, operator: In, values: [ray-head, ray-worker, controller]}
{{- end }}
{{/* Argument: (dict "peers" [NetworkPolicyPeer] "port" 8080); nothing where there are no peers. */}}
{{- define "lacuna.fromPeers" }}
{{- with .peers }}
- from: {{- toYaml . | nindent 4 }}
  ports:
    - {port: {{ $.port }}, protocol: TCP}
{{- end }}
{{- end }}
