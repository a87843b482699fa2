{{- /* Labels of every object, as the inside of a YAML flow mapping. */ -}}
{{- define "kuberewind.labels" -}}
app.kubernetes.io/name: kuberewind, app.kubernetes.io/instance: {{ .Release.Name | toJson }}, app.kubernetes.io/version: {{ .Chart.AppVersion | toJson }}
{{- range $name, $value := .Values.tap.labels }}, {{ $name | toJson }}: {{ $value | toJson }}{{ end }}
{{- end }}

{{- /* What selects the agents' pods. A daemonset's selector can never change. */ -}}
{{- define "kuberewind.agent" -}}
app.kubernetes.io/name: kuberewind, app.kubernetes.io/component: agent
{{- end }}

{{- /* Annotations of every object, each with a comma behind it. */ -}}
{{- define "kuberewind.annotations" -}}
{{- range $name, $value := .Values.tap.annotations }}{{ $name | toJson }}: {{ $value | toJson }}, {{ end }}
{{- end }}
