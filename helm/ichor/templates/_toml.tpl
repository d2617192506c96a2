{{/* A tree as TOML: (dict "tree" map "path" list). A JSON string or number is a TOML one. Null: left out. */}}
{{- define "ichor.toml" -}}
{{- $path := .path -}}
{{- range $key, $value := .tree -}}
{{- if not (or (kindIs "invalid" $value) (kindIs "map" $value) (eq (include "ichor.toml.tables" $value) "yes")) }}
{{ $key }} = {{ include "ichor.toml.value" $value }}
{{- end -}}
{{- end -}}
{{- range $key, $value := .tree -}}
{{- $here := append $path $key -}}
{{- if kindIs "map" $value }}

[{{ join "." $here }}]
{{- include "ichor.toml" (dict "tree" $value "path" $here) -}}
{{- else if eq (include "ichor.toml.tables" $value) "yes" -}}
{{- range $value }}

[[{{ join "." $here }}]]
{{- include "ichor.toml" (dict "tree" . "path" $here) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* "yes" for a list of tables. */}}
{{- define "ichor.toml.tables" -}}
{{- if kindIs "slice" . -}}{{- if . -}}{{- if kindIs "map" (first .) -}}yes{{- end -}}{{- end -}}{{- end -}}
{{- end -}}

{{/* A scalar or a list of scalars. Whole numbers, which Helm may hold as floats, without exponent. */}}
{{- define "ichor.toml.value" -}}
{{- if kindIs "slice" . -}}
[{{ range $index, $item := . }}{{ if $index }}, {{ end }}{{ include "ichor.toml.value" $item }}{{ end }}]
{{- else if kindIs "float64" . -}}
{{- if eq (float64 (int64 .)) . }}{{ int64 . }}{{ else }}{{ toJson . }}{{ end -}}
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}
