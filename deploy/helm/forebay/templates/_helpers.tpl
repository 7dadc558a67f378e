{{/* The release's name, so that the objects of `helm install forebay` are called as those of deploy/kubernetes. */}}
{{- define "forebay.name" -}}
{{- if contains "forebay" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-forebay" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels by which objects find each other: (list . "component"). */}}
{{- define "forebay.selector" -}}
app.kubernetes.io/name: forebay
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "forebay.labels" -}}
{{ include "forebay.selector" . }}
app.kubernetes.io/part-of: forebay
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{- define "forebay.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "forebay.broker" -}}
{{- if .Values.nats.enabled -}}
{{- $name := printf "%s-nats" (include "forebay.name" .) -}}
{{- range $index := until 3 }}{{ if $index }},{{ end }}nats://{{ $name }}-{{ $index }}.{{ $name }}:4222{{ end }}
{{- else }}{{ .Values.nats.url }}{{ end }}
{{- end }}

{{/* What every pod has in common. */}}
{{- define "forebay.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "forebay.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{/* Variables from a map of settings. */}}
{{- define "forebay.env" -}}
{{- range $key, $value := . }}
{{- if not (kindIs "invalid" $value) }}
- { name: {{ $key }}, value: {{ $value | quote }} }
{{- end }}
{{- end }}
{{- end }}

{{- define "forebay.probes" -}}
readinessProbe:
  httpGet: { path: /health/ready, port: {{ . }} }
  periodSeconds: 5
livenessProbe:
  httpGet: { path: /health/live, port: {{ . }} }
  initialDelaySeconds: 10
  periodSeconds: 10
{{- end }}

{{- define "forebay.mounts" -}}
- { name: keys, mountPath: /etc/forebay/keys, readOnly: true }
{{- if .Values.tls.enabled }}
- { name: tls, mountPath: /etc/forebay/tls, readOnly: true }
{{- end }}
{{- end }}

{{/* The role's secret, and the certificates: (list . "secret"). */}}
{{- define "forebay.volumes" -}}
- name: keys
  secret: { secretName: {{ index . 1 }}, defaultMode: 0440 }
{{- with index . 0 }}
{{- if .Values.tls.enabled }}
- name: tls
  secret: { secretName: {{ .Values.tls.roles }}, defaultMode: 0440 }
{{- end }}
{{- end }}
{{- end }}

{{/* Spread over machines, where there are several: (list . "component"). */}}
{{- define "forebay.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "forebay.selector" . | nindent 8 }}
{{- end }}

{{/* Who may come, and where to go, in network policies. */}}
{{- define "forebay.prometheus" -}}
- namespaceSelector:
    matchLabels: { kubernetes.io/metadata.name: {{ .Values.monitoring.namespace }} }
{{- end }}
{{- define "forebay.internet" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, 100.64.0.0/10]
{{- end }}
