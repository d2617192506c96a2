{{/* 28 characters, so that a receiver's pod fits store.receiver (40). */}}
{{- define "ichor.name" -}}
{{- ternary .Release.Name (print .Release.Name "-" .Chart.Name) (contains .Chart.Name .Release.Name) | replace "." "-" | trunc 28 | trimSuffix "-" -}}
{{- end -}}

{{/* Of all objects of the release. */}}
{{- define "ichor.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "ichor.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{ include "ichor.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* (dict "image" override "default" .Values.image "version" appVersion) */}}
{{- define "ichor.image" -}}
{{- $repository := .image.repository | default .default.repository -}}
{{- $own := .image.repository -}}
{{- $digest := .image.digest | default (ternary "" .default.digest (not (empty $own))) -}}
{{- $tag := .image.tag | default (ternary "" .default.tag (not (empty $own))) | default .version -}}
{{- if $digest }}{{ $repository }}@{{ $digest }}{{ else }}{{ $repository }}:{{ $tag }}{{ end -}}
{{- end -}}

{{/* Where the shared store lies for a role: of store.url, or the volume. */}}
{{- define "ichor.store.url" -}}
{{ .Values.store.url | default "file:/mnt/ichor" }}
{{- end -}}

{{- define "ichor.store.volume" -}}
{{- if and (eq .Values.mode "cluster") (not .Values.store.url) }}yes{{ end -}}
{{- end -}}

{{/* The settings as YAML: those of the site and those that only the chart can know. */}}
{{- define "ichor.settings" -}}
{{- $listener := dict "host" "0.0.0.0" "port" 11112 -}}
{{- if .Values.secrets.listenerTLS.name -}}
{{- $tls := dict "cert" "/etc/ichor/tls/tls.crt" "key" "/etc/ichor/tls/tls.key" -}}
{{- if .Values.secrets.listenerTLS.clients }}{{ $_ := set $tls "ca" "/etc/ichor/tls/ca.crt" }}{{ end -}}
{{- $_ := set $listener "tls" $tls -}}
{{- end -}}
{{- if .Values.receive.stow.enabled -}}
{{- $_ := set $listener "stow" (dict "host" "0.0.0.0" "port" 8042 "token_file" "/etc/ichor/stow-token") -}}
{{- end -}}
{{- $chart := dict "data" "/var/lib/ichor" "listener" $listener "console" (dict "host" "0.0.0.0" "port" 8080 "token_file" "/etc/ichor/console-token") -}}
{{- if eq .Values.mode "cluster" -}}
{{- $_ := set $chart "bus" (include "ichor.bus" . | fromYaml) -}}
{{- $_ := set $chart "store" (dict "url" (include "ichor.store.url" .)) -}}
{{- $_ := set $chart "assemble" (dict "shards" (ternary .Values.assemble.shards 1 (eq (include "ichor.store.volume" .) "yes"))) -}}
{{- end -}}
{{- mergeOverwrite $chart (deepCopy .Values.settings) | toYaml -}}
{{- end -}}

{{- define "ichor.bus" -}}
{{- $kafka := .Values.kafka -}}
url: kafka://{{ join "," $kafka.brokers }}
kafka:
  prefix: {{ $kafka.prefix | quote }}
  tls: {{ $kafka.tls.enabled }}
  {{- if $kafka.tls.ca.name }}
  ca: /etc/ichor/kafka/ca.crt
  {{- end }}
  {{- if $kafka.tls.client.name }}
  cert: /etc/ichor/kafka/tls.crt
  key: /etc/ichor/kafka/tls.key
  {{- end }}
  {{- if $kafka.sasl.secret.name }}
  password_file: /etc/ichor/kafka/password
  mechanism: {{ $kafka.sasl.mechanism }}
  {{- end }}
{{- end -}}

{{/* What only the chart can check together. */}}
{{- define "ichor.check" -}}
{{- if not .Values.settings.senders }}{{ fail "settings.senders: required, who may send images: [{ae_title: CT1, host: 10.1.2.3}]" }}{{ end -}}
{{- if not .Values.secrets.consoleToken.name }}{{ fail "secrets.consoleToken.name: required; kubectl create secret generic ichor-console --from-literal=token=$(openssl rand -hex 32)" }}{{ end -}}
{{- if and (eq .Values.mode "cluster") (not .Values.kafka.brokers) }}{{ fail "kafka.brokers: required in mode cluster; or mode: single" }}{{ end -}}
{{- if and .Values.receive.stow.enabled (not .Values.receive.stow.token.name) }}{{ fail "receive.stow.token.name: required where receive.stow.enabled" }}{{ end -}}
{{- if and (eq .Values.mode "single") (gt (int .Values.receive.replicas) 1) }}{{ fail "receive.replicas: 1 in mode single, where all state lies in one folder" }}{{ end -}}
{{- if and (eq .Values.mode "cluster") .Values.store.url (gt (int .Values.assemble.replicas) 1) }}{{ fail "assemble.replicas: 1 where store.url is set: its state lies on a volume of its own" }}{{ end -}}
{{- if and (eq .Values.mode "cluster") (ne ((.Values.settings.listener).durability | default "instance") "instance") }}{{ fail "settings.listener.durability: instance in mode cluster" }}{{ end -}}
{{- end -}}

{{/* The claim template of a role's own folder: (dict "root" $ "persistence" values) */}}
{{- define "ichor.data" -}}
- metadata:
    name: data
    labels:
      {{- include "ichor.selector" .root | nindent 6 }}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .persistence.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ .persistence.size }}}}
{{- end -}}
