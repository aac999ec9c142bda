{{/* Pools: which nodes a pool means, and whether it can exist. The same arithmetic is in orchestrator/pools; a test
compares the two over every accelerator and topology. files/accelerators.json is written by `python -m
orchestrator.pools.table`. */}}

{{/* A pool with everything worked out, as JSON. Argument: (dict "root" $ "pool" $pool "index" 0). */}}
{{- define "lacuna.pool" -}}
{{- $pool := .pool -}}
{{- $where := printf "pools[%d] (%s)" .index $pool.name -}}
{{- if gt (len $pool.name) 30 -}}
{{- fail (printf "%s: name has %d characters, KubeRay leaves room for 30" $where (len $pool.name)) -}}
{{- end -}}
{{- $table := .root.Files.Get "files/accelerators.json" | fromJson -}}
{{- $wanted := $pool.accelerator | default "cpu" -}}
{{- $wanted = get $table.aliases $wanted | default $wanted -}}
{{- $known := get $table.accelerators $wanted -}}
{{- if not $known -}}
{{- fail (printf "%s: accelerator %q is unknown: use one of %s" $where $wanted (keys $table.accelerators | sortAlpha | join ", ")) -}}
{{- end -}}
{{- $min := int ($pool.minNodes | default 0) -}}
{{- $max := int (ternary $pool.maxNodes 1 (hasKey $pool "maxNodes")) -}}
{{- if lt $max $min -}}
{{- fail (printf "%s: maxNodes %d is less than minNodes %d" $where $max $min) -}}
{{- end -}}
{{- $topology := $pool.topology | default "" -}}
{{- $perHost := 0 -}}
{{- $hosts := 1 -}}
{{- if and $topology (ne $known.kind "tpu") -}}
{{- fail (printf "%s: topology: a pool of %s has no topology: leave it out" $where $wanted) -}}
{{- end -}}
{{- if eq $known.kind "cpu" -}}
  {{- if $pool.chipsPerHost -}}
  {{- fail (printf "%s: chipsPerHost: a pool of cpu has no chips: leave it out" $where) -}}
  {{- end -}}
{{- else if eq $known.kind "gpu" -}}
  {{- $perHost = int ($pool.chipsPerHost | default (first $known.chipsPerHost)) -}}
  {{- if not (include "lacuna.holds" (dict "list" $known.chipsPerHost "value" $perHost)) -}}
  {{- fail (printf "%s: chipsPerHost: a host has %s %s, not %d" $where (include "lacuna.or" $known.chipsPerHost) $wanted $perHost) -}}
  {{- end -}}
{{- else -}}
  {{- if not (has $topology $known.topologies) -}}
  {{- fail (printf "%s: topology: %s has no topology %q: use one of %s" $where $wanted $topology (join ", " $known.topologies)) -}}
  {{- end -}}
  {{- $chips := 1 -}}
  {{- range splitList "x" $topology }}{{ $chips = mul $chips (int .) }}{{ end -}}
  {{- $usual := int (first $known.chipsPerHost) -}}
  {{- if include "lacuna.holds" (dict "list" $known.chipsPerHost "value" $chips) }}{{ $usual = int $chips }}{{ end -}}
  {{- $perHost = int ($pool.chipsPerHost | default $usual) -}}
  {{- if not (include "lacuna.holds" (dict "list" $known.chipsPerHost "value" $perHost)) -}}
  {{- fail (printf "%s: chipsPerHost: a host has %s chips of %s, not %d" $where (include "lacuna.or" $known.chipsPerHost) $wanted $perHost) -}}
  {{- end -}}
  {{- if and (gt (int $chips) $perHost) (gt $perHost 4) -}}
  {{- fail (printf "%s: chipsPerHost: hosts of %d chips stand alone: a slice of %s is made of hosts of 4" $where $perHost $topology) -}}
  {{- end -}}
  {{- if or (gt $perHost (int $chips)) (ne 0 (int (mod $chips $perHost))) -}}
  {{- fail (printf "%s: chipsPerHost: topology %s has %d chips, which hosts of %d cannot make up" $where $topology (int $chips) $perHost) -}}
  {{- end -}}
  {{- $hosts = max (div $chips $perHost) 1 -}}
{{- end -}}
{{- if and (ne $known.kind "gpu") (ne (float64 ($pool.chipsPerRun | default 1)) 1.0) -}}
{{- fail (printf "%s: chipsPerRun is a share of one GPU: leave it out of a pool of %s" $where $wanted) -}}
{{- end -}}
{{- if and (eq $known.kind "tpu") (ne .root.Values.cloud "gke") -}}
{{- fail (printf "%s: accelerator: TPUs are to be had on GKE: set cloud: gke" $where) -}}
{{- end -}}
{{- if and (eq .root.Values.cloud "gke") (eq $known.kind "gpu") (not $known.gkeLabel) -}}
{{- fail (printf "%s: accelerator: GKE has no %s" $where $wanted) -}}
{{- end -}}
{{- $cpu := dig "limits" "cpu" (dig "requests" "cpu" "1" ($pool.resources | default dict)) ($pool.resources | default dict) | toString -}}
{{- dict "name" $pool.name "accelerator" $wanted "kind" $known.kind "topology" $topology "chipsPerHost" $perHost "numOfHosts" $hosts "minNodes" $min "maxNodes" $max "cpus" (include "lacuna.amount" $cpu | float64 | ceil | int) "gkeLabel" $known.gkeLabel "generation" $known.rayGeneration | toJson -}}
{{- end -}}

{{/* "true" where a list of numbers holds a value; numbers come as int or float. */}}
{{- define "lacuna.holds" -}}
{{- $found := "" -}}
{{- range .list }}{{ if eq (int .) (int $.value) }}{{ $found = "true" }}{{ end }}{{ end -}}
{{- $found -}}
{{- end -}}

{{- define "lacuna.or" -}}
{{- $sorted := list -}}
{{- range $n := untilStep 1 17 1 }}{{ if include "lacuna.holds" (dict "list" $ "value" $n) }}{{ $sorted = append $sorted (toString $n) }}{{ end }}{{ end -}}
{{- join " or " $sorted -}}
{{- end -}}

{{/* The one Kueue queue of the pools; a RayCluster is admitted as a whole. */}}
{{- define "lacuna.queue" -}}
{{- $queues := list -}}
{{- range .Values.pools }}{{ $queues = append $queues (.queue | default "") }}{{ end -}}
{{- $queues = uniq $queues -}}
{{- if gt (len $queues) 1 -}}
{{- fail (printf "pools[].queue: Kueue admits the RayCluster as a whole, so every pool names the same queue; they name %s" (join ", " $queues | quote)) -}}
{{- end -}}
{{- first $queues -}}
{{- end -}}
