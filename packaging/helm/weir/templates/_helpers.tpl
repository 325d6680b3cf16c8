{{- define "weir.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end -}}

{{- define "weir.fullname" -}}
{{- $name := include "weir.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "weir.selector" -}}
app.kubernetes.io/name: {{ include "weir.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "weir.labels" -}}
{{ include "weir.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The source of documents: `files`, `configMap` or `git`. Anything but exactly one is an error. */}}
{{- define "weir.source" -}}
{{- $sources := list -}}
{{- if .Values.declarations.files }}{{ $sources = append $sources "files" }}{{ end -}}
{{- if .Values.declarations.existingConfigMap }}{{ $sources = append $sources "configMap" }}{{ end -}}
{{- if .Values.declarations.gitSync.repository }}{{ $sources = append $sources "git" }}{{ end -}}
{{- if ne (len $sources) 1 -}}
{{- fail "declare where the documents come from: exactly one of declarations.files, declarations.existingConfigMap and declarations.gitSync.repository" -}}
{{- end -}}
{{- first $sources -}}
{{- end -}}

{{- define "weir.configMap" -}}
{{- .Values.declarations.existingConfigMap | default (printf "%s-endpoints" (include "weir.fullname" .)) -}}
{{- end -}}
