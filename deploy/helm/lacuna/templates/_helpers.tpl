{{/* Name of all objects. KubeRay appends up to "-head-svc" and cuts names over 50 characters at the front. */}}
{{- define "lacuna.fullname" -}}
{{- $name := .Values.fullnameOverride | default .Release.Name -}}
{{- if gt (len $name) 40 -}}
{{- fail (printf "fullnameOverride or the release's name: %q has %d characters, KubeRay leaves room for 40" $name (len $name)) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name) -}}
{{- fail (printf "fullnameOverride or the release's name: %q is no name for a Service: start with a letter, and use a-z, 0-9 and -" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* Labels that never change: selectors use them. Argument: (dict "root" $ "component" "service"). */}}
{{- define "lacuna.selector" -}}
app.kubernetes.io/part-of: lacuna
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "lacuna.labels" -}}
{{ include "lacuna.selector" . }}
app.kubernetes.io/name: lacuna
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Full name of an image of ours. Argument: (dict "root" $ "name" "service"). */}}
{{- define "lacuna.image" -}}
{{- $image := .root.Values.image -}}
{{- $repository := get $image .name -}}
{{- if $image.registry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" $image.registry) (base $repository) -}}
{{- end -}}
{{- $digest := get $image.digests .name -}}
{{- if $digest -}}
{{- printf "%s@%s" $repository $digest -}}
{{- else -}}
{{- printf "%s:%s" $repository ($image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* An image of yours as it is, where it names the same image tomorrow. Argument: (dict "where" "pools[0] (cpu)" "image" …). */}}
{{- define "lacuna.fixedImage" -}}
{{- $tag := regexFind ":[^:/@]+(@|$)" .image | trimSuffix "@" -}}
{{- if and (not (contains "@sha256:" .image)) (or (not $tag) (eq $tag ":latest")) -}}
{{- fail (printf "%s.image: %q is whatever its registry holds that day: name a tag (not latest) or a digest, as in %s:1.2" .where .image (trimSuffix $tag .image)) -}}
{{- end -}}
{{- .image -}}
{{- end -}}

{{- define "lacuna.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Of every Pod of ours: the restricted Pod Security level. */}}
{{- define "lacuna.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  runAsGroup: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* Of every container: restricted, and nothing may write to its image. */}}
{{- define "lacuna.containerSecurity" -}}
runAsNonRoot: true
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A quantity of Kubernetes as a number: cores, bytes. */}}
{{- define "lacuna.amount" -}}
{{- $number := regexFind "^[0-9.]+" (toString .) -}}
{{- $units := dict "m" 0.001 "M" 1e6 "G" 1e9 "T" 1e12 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mulf (float64 $number) (get $units (trimPrefix $number (toString .)) | default 1) -}}
{{- end -}}

{{/* Resources of a container, whose Pods nobody would admit where it requests more than its limits. Argument: (dict
"where" "service" "resources" .Values.service.resources). */}}
{{- define "lacuna.resources" -}}
{{- range $kind, $wanted := .resources.requests -}}
{{- $limit := get $.resources.limits $kind | default $wanted -}}
{{- if gt (include "lacuna.amount" $wanted | float64) (include "lacuna.amount" $limit | float64) -}}
{{- fail (printf "%s.resources: requests.%s: %v is more than the limit of %v" $.where $kind $wanted $limit) -}}
{{- end -}}
{{- end -}}
{{- toYaml .resources -}}
{{- end -}}

{{- define "lacuna.placing" -}}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* ---- secrets ---- */}}

{{- define "lacuna.databaseSecret" -}}
{{- if eq .Values.database.mode "bundled" -}}
{{ include "lacuna.fullname" . }}-postgres
{{- else -}}
{{- required "database.external.secretName: name the Secret that holds the URLs of your Postgres" .Values.database.external.secretName -}}
{{- end -}}
{{- end -}}

{{- define "lacuna.databaseUrlKey" -}}
{{- if eq .Values.database.mode "bundled" }}database-url{{ else }}{{ .Values.database.external.urlKey }}{{ end -}}
{{- end -}}

{{- define "lacuna.trackingUrlKey" -}}
{{- if eq .Values.database.mode "bundled" }}tracking-database-url{{ else }}{{ .Values.database.external.trackingUrlKey }}{{ end -}}
{{- end -}}

{{- define "lacuna.apiTokenSecret" -}}
{{ .Values.apiToken.secretName | default (printf "%s-api-token" (include "lacuna.fullname" .)) }}
{{- end -}}

{{- define "lacuna.rayTokenSecret" -}}
{{ .Values.ray.auth.secretName | default (printf "%s-ray-token" (include "lacuna.fullname" .)) }}
{{- end -}}

{{/* What is in a Secret of ours already, or a new random value. Argument: (dict "root" $ "name" … "key" …). */}}
{{- define "lacuna.kept" -}}
{{- $there := lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- $value := "" -}}
{{- if $there -}}{{- $value = get ($there.data | default dict) .key -}}{{- end -}}
{{- if $value -}}{{- $value | b64dec -}}{{- else -}}{{- randAlphaNum 40 -}}{{- end -}}
{{- end -}}

{{/* ---- storage ---- */}}

{{- define "lacuna.storageUrl" -}}
{{- if eq .Values.storage.kind "pvc" -}}
/storage
{{- else -}}
{{- required "storage.url: with storage.kind url, name the bucket as gs://bucket/path or s3://bucket/path" .Values.storage.url | trimSuffix "/" -}}
{{- end -}}
{{- end -}}

{{- define "lacuna.storageClaim" -}}
{{ .Values.storage.pvc.existingClaim | default (printf "%s-storage" (include "lacuna.fullname" .)) }}
{{- end -}}

{{- define "lacuna.storageMount" -}}
{{- if eq .Values.storage.kind "pvc" }}
- name: storage
  mountPath: /storage
{{- end }}
{{- end -}}

{{- define "lacuna.storageVolume" -}}
{{- if eq .Values.storage.kind "pvc" }}
- name: storage
  persistentVolumeClaim:
    claimName: {{ include "lacuna.storageClaim" . | quote }}
{{- end }}
{{- end -}}

{{- define "lacuna.storageEnv" -}}
{{- if and (eq .Values.storage.kind "url") .Values.storage.s3Endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ .Values.storage.s3Endpoint | quote }}
- name: MLFLOW_S3_ENDPOINT_URL
  value: {{ .Values.storage.s3Endpoint | quote }}
{{- end }}
{{- end -}}

{{/* ---- what our own processes share: service, controller, migrations ---- */}}

{{- define "lacuna.env" -}}
- name: LACUNA_HOME
  value: /var/lib/lacuna
- name: LACUNA_STORAGE_URL
  value: {{ include "lacuna.storageUrl" . }}
- name: LACUNA_DATABASE_URL_FILE
  value: /run/lacuna/database/url
- name: LACUNA_POOLS
  value: /etc/lacuna/pools.yaml
{{- if .Values.mlflow.enabled }}
- name: LACUNA_TRACKING_URI
  value: http://{{ include "lacuna.fullname" . }}-mlflow:5000
{{- end }}
{{- include "lacuna.storageEnv" . }}
{{- end -}}

{{- define "lacuna.mounts" -}}
- name: home
  mountPath: /var/lib/lacuna
- name: tmp
  mountPath: /tmp
- name: database
  mountPath: /run/lacuna/database
  readOnly: true
- name: pools
  mountPath: /etc/lacuna
  readOnly: true
{{- include "lacuna.storageMount" . }}
{{- end -}}

{{- define "lacuna.volumes" -}}
- name: home
  emptyDir: {}
- name: tmp
  emptyDir: {}
- name: database
  secret:
    secretName: {{ include "lacuna.databaseSecret" . | quote }}
    defaultMode: 0440
    items:
      - key: {{ include "lacuna.databaseUrlKey" . | quote }}
        path: url
- name: pools
  configMap:
    name: {{ include "lacuna.fullname" . }}-pools
{{- include "lacuna.storageVolume" . }}
{{- end -}}

{{/* ---- MLflow ---- */}}

{{/* MLflow refuses Host headers that it does not know, port included. */}}
{{- define "lacuna.mlflowHosts" -}}
{{- $name := printf "%s-mlflow" (include "lacuna.fullname" .) -}}
{{- $hosts := list "localhost" "127.0.0.1" $name -}}
{{- range list "" ".svc" ".svc.cluster.local" -}}
{{- $hosts = append $hosts (printf "%s.%s%s" $name $.Release.Namespace .) -}}
{{- end -}}
{{- $all := list -}}
{{- range $hosts -}}
{{- $all = concat $all (list . (printf "%s:5000" .)) -}}
{{- end -}}
{{- join "," (concat $all .Values.mlflow.extraAllowedHosts) -}}
{{- end -}}

{{/* ---- Ray ---- */}}

{{- define "lacuna.rayProbe" -}}
# What KubeRay would ask itself, with time to spare for a busy node.
httpGet:
  path: /api/healthz
  port: 52365
initialDelaySeconds: 10
periodSeconds: 10
timeoutSeconds: 5
failureThreshold: {{ . }}
{{- end -}}
