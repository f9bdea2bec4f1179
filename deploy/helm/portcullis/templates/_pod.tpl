{{- /* What a pod needs to hold a gate: for this chart's own pods, for its check, and for the pods of others that include it. */}}

{{- define "portcullis.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "portcullis.port" -}}
{{- regexFind "[0-9]+$" .Values.config.listen -}}
{{- end }}

{{- /* The port of the admin listener, where others than this pod can reach it. */}}
{{- define "portcullis.adminPort" -}}
{{- if not (regexMatch "^(127\\.|\\[::1\\]|unix:)" .Values.config.admin) }}{{ regexFind "[0-9]+$" .Values.config.admin }}{{ end -}}
{{- end }}

{{- /* Longer than the gate takes to stop. Numbers go through JSON, which writes them without an exponent. */}}
{{- define "portcullis.gracePeriod" -}}
{{- $drain := .Values.config.drain | default dict -}}
{{- $ms := add (dig "delay_ms" 0 $drain | toJson | int64) (dig "patience_ms" 30000 $drain | toJson | int64) -}}
{{- add (.Values.preStopSeconds | toJson | int64) (div (add $ms 999) 1000) 10 -}}
{{- end }}

{{- /* What does not change while a gate runs (docs/reload.md); pods are made anew when it does, and reload anything else. */}}
{{- define "portcullis.fixed" -}}
{{- $config := .Values.config -}}
{{- $limits := pick ($config.limits | default dict) "connections_max" "streams_max" -}}
{{- $records := pick ($config.records | default dict) "stdout" "file" "syslog" "otlp" -}}
{{- $log := pick ($config.log | default dict) "format" -}}
{{- $fixed := pick $config "listen" "admin" "http2" "proxy_protocol" "listeners" -}}
{{- list $fixed $limits $records $log (hasKey $config "tls") | toJson | sha256sum -}}
{{- end }}

{{- define "portcullis.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "portcullis.container" -}}
{{- include "portcullis.refusals" . -}}
- name: gate
  {{- include "portcullis.process" . | nindent 2 }}
  ports:
    - { name: http, containerPort: {{ include "portcullis.port" . }} }
    {{- with include "portcullis.adminPort" . }}
    - { name: admin, containerPort: {{ . }} }
    {{- end }}
  readinessProbe:
    exec: { command: [/usr/local/bin/portcullis, health, --admin, {{ .Values.config.admin | quote }}] }
    periodSeconds: 5
    timeoutSeconds: 4
  livenessProbe: { tcpSocket: { port: http }, periodSeconds: 10, failureThreshold: 3 }
  {{- with .Values.preStopSeconds | toJson | int64 }}
  # Load balancers learn that the pod goes before the gate stops accepting.
  lifecycle: { preStop: { sleep: { seconds: {{ . }} } } }
  {{- end }}
{{- end }}

{{- define "portcullis.process" -}}
image: {{ include "portcullis.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- with .Values.env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
resources: {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - { name: gate-config, mountPath: /etc/portcullis, readOnly: true }
  - { name: gate-policies, mountPath: /etc/portcullis/policies, readOnly: true }
  {{- with .Values.volumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{- define "portcullis.volumes" -}}
{{- include "portcullis.volumesOf" (dict "gate" . "suffix" "") -}}
{{- end }}

{{- define "portcullis.volumesOf" -}}
{{- $name := include "portcullis.name" .gate -}}
- name: gate-config
  {{- with .gate.Values.configVolume }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  configMap: { name: {{ $name }}-config{{ .suffix }} }
  {{- end }}
- name: gate-policies
  {{- with .gate.Values.policiesVolume }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  configMap: { name: {{ $name }}-policies{{ .suffix }} }
  {{- end }}
{{- with .gate.Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
