{{- /* The ConfigMaps that a gate reads, or its check. */}}
{{- define "portcullis.configuration" -}}
{{- $gate := .gate -}}
{{- $name := include "portcullis.name" $gate -}}
{{- if not $gate.Values.configVolume }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}-config{{ .suffix }}
  labels: {{- include "portcullis.labels" $gate | nindent 4 }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
data:
  config.yaml: |
    {{- toYaml $gate.Values.config | nindent 4 }}
  {{- with $gate.Values.files }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- if not $gate.Values.policiesVolume }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}-policies{{ .suffix }}
  labels: {{- include "portcullis.labels" $gate | nindent 4 }}
  {{- with .annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
data:
  {{- toYaml $gate.Values.policies | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What is not rendered at all: a gate without policies, two sources of one thing, and doors that nobody meant to open. */}}
{{- define "portcullis.refusals" -}}
{{- $values := .Values -}}
{{- $cedar := 0 }}{{ range $name, $text := $values.policies }}{{ if hasSuffix ".cedar" $name }}{{ $cedar = add1 $cedar }}{{ end }}{{ end -}}
{{- if $values.policiesVolume -}}
  {{- if $values.policies }}{{ fail "`policies` or `policiesVolume`: there can be only one place for policies" }}{{ end -}}
{{- else if not $cedar -}}
  {{- fail "`policies`: there is no *.cedar, and without policies nobody may do anything: write them there, or name a volume with them in `policiesVolume`" -}}
{{- else if not (hasKey $values.policies "schema.cedarschema") -}}
  {{- fail "`policies`: there is no schema.cedarschema, which policies are validated by" -}}
{{- end -}}
{{- $unknown := omit $values.config "listen" "admin" "drain" -}}
{{- if $values.configVolume -}}
  {{- if or $unknown $values.files }}{{ fail (printf "`configVolume` has config.yaml: beside it `config` says listen, admin and drain alone, and `files` nothing (%s)" (keys $unknown | sortAlpha | join ", ")) }}{{ end -}}
{{- else -}}
  {{- range list "upstream" "issuers" "routes" -}}
    {{- $_ := required (printf "`config.%s` is missing: docs/configuration.md says what it is" .) (get $values.config .) -}}
  {{- end -}}
{{- end -}}
{{- if not (include "portcullis.port" .) -}}
  {{- fail (printf "`config.listen`: `%s` has no port, by which other pods could connect" $values.config.listen) -}}
{{- end -}}
{{- if and $values.podMonitor.enabled (not (include "portcullis.adminPort" .)) -}}
  {{- fail (printf "`podMonitor`: nobody can scrape `config.admin` at %s: say 0.0.0.0:9901, and in `networkPolicy.adminFrom` who may" $values.config.admin) -}}
{{- end -}}
{{- if eq $values.mode "standalone" -}}
  {{- with $values.upstreamPods -}}
    {{- if and (not .labels) (not .protectedElsewhere) }}{{ fail "`upstreamPods.labels` is missing: the pods that nobody but the gate may reach; or say `upstreamPods.protectedElsewhere: true`" }}{{ end -}}
    {{- if and (not .ports) (not .protectedElsewhere) }}{{ fail "`upstreamPods.ports` is missing: where the service listens" }}{{ end -}}
  {{- end -}}
  {{- if and (include "portcullis.adminPort" .) (not $values.networkPolicy.enabled) -}}
    {{- fail (printf "`networkPolicy.enabled`: without one anybody reaches `config.admin` at %s" $values.config.admin) -}}
  {{- end -}}
{{- end -}}
{{- end }}
