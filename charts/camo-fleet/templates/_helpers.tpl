{{/* Names are fixed because the components find each other by name. So there is one release per cluster. */}}

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

{{/* The host of publicUrl, which Ingress and HTTPRoute match. */}}
{{- define "camofleet.publicHost" -}}
{{- $url := urlParse (required "publicUrl must be set: ingress and httpRoute route its host to the gateway" .Values.publicUrl) -}}
{{- if $url.path }}{{ fail (printf "publicUrl must not have a path (%s): ingress and httpRoute route a whole host to the gateway" $url.path) }}{{ end -}}
{{- regexReplaceAll ":[0-9]+$" $url.host "" -}}
{{- end }}

{{/* The release's pools by name, without those set to null, as JSON. */}}
{{- define "camofleet.pools" -}}
{{- $pools := dict }}
{{- range $name, $spec := .Values.pools }}
{{- if not (kindIs "invalid" $spec) }}{{ $_ := set $pools $name $spec }}{{ end }}
{{- end }}
{{- toJson $pools }}
{{- end }}

{{/*
Whether hooks are rendered: "true" or "false". `lookup` finds nothing without a cluster. Helm then prints hooks instead
of running them, and `kubectl apply` of the output would run all Jobs at once.
*/}}
{{- define "camofleet.hooksEnabled" -}}
{{- if eq (toString .Values.hooks.enabled) "auto" -}}
{{- not (empty (lookup "v1" "Namespace" "" "kube-system")) -}}
{{- else -}}
{{- .Values.hooks.enabled -}}
{{- end -}}
{{- end }}

{{/* camofleet.hookJob (dict "root" $ "name" "apply-pools" "deadline" 180 "args" (list …)): a hook Job's spec, with the operator's image */}}
{{- define "camofleet.hookJob" -}}
{{- $operator := dict "root" .root "component" "operator" "image" .root.Values.operator.image -}}
backoffLimit: 1
activeDeadlineSeconds: {{ .deadline }}
template:
  metadata:
    labels: {{- include "camofleet.labels" (dict "root" .root "component" "hooks") | nindent 6 }}
  spec:
    serviceAccountName: camofleet-{{ .name }}
    restartPolicy: Never
    securityContext: {{- include "camofleet.podSecurityContext" .root | nindent 6 }}
    {{- with .root.Values.image.pullSecrets }}
    imagePullSecrets: {{- range . }}
      - name: {{ . }}
    {{- end }}
    {{- end }}
    containers:
      - name: {{ .name }}
        image: {{ include "camofleet.image" $operator }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        args: {{- toYaml .args | nindent 10 }}
        env:
          {{- include "camofleet.identityEnv" .root | nindent 10 }}
          - name: RUST_LOG
            value: {{ .root.Values.operator.logLevel | quote }}
        terminationMessagePolicy: FallbackToLogsOnError
        securityContext: {{- include "camofleet.containerSecurityContext" .root | nindent 10 }}
        {{- with .root.Values.operator.resources }}
        resources: {{- toYaml . | nindent 10 }}
        {{- end }}
    {{- with .root.Values.operator.nodeSelector }}
    nodeSelector: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .root.Values.operator.tolerations }}
    tolerations: {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .root.Values.operator.affinity }}
    affinity: {{- toYaml . | nindent 6 }}
    {{- end }}
{{- end }}
