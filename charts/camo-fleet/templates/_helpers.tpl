{{/* The names of the parts are fixed: operator, gateway and runners find each other by them. One release per cluster. */}}

{{/* camofleet.labels (dict "root" $ "component" "operator") */}}
{{- define "camofleet.labels" -}}
{{ include "camofleet.selector" . }}
app.kubernetes.io/part-of: camo-fleet
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "camofleet.selector" -}}
app.kubernetes.io/name: camofleet-{{ .component }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{/* camofleet.image (dict "root" $ "component" "operator" "image" .Values.operator.image) */}}
{{- define "camofleet.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- .image | default (printf "%scamofleet-%s:%s" (ternary (printf "%s/" $registry) "" (ne $registry "")) .component (.root.Values.image.tag | default .root.Chart.AppVersion)) -}}
{{- end }}

{{- define "camofleet.publicUrl" -}}
{{- .Values.publicUrl | default (printf "http://camofleet-gateway.%s.svc:%v" .Release.Namespace .Values.gateway.service.port) -}}
{{- end }}

{{- define "camofleet.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "camofleet.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "camofleet.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{- define "camofleet.identityEnv" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- end }}
