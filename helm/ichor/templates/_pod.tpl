{{/* The pod of a role, as a template: (dict "root" $ "role" "work" "ready" list of ready files). `serve`: all roles. */}}
{{- define "ichor.pod" -}}
{{- $root := .root -}}
{{- $role := .role -}}
{{- $values := get $root.Values (ternary "receive" $role (eq $role "serve")) -}}
{{- $gpu := and (eq $role "work") $root.Values.work.gpu.enabled -}}
{{- $image := dict "image" (get $values "image" | default dict) "default" $root.Values.image "version" $root.Chart.AppVersion | include "ichor.image" -}}
{{- $own := or (has $role (list "receive" "serve")) (and (eq $role "assemble") (not (include "ichor.store.volume" $root))) -}}
{{- $counted := not (has $role (list "serve" "console")) -}}
{{- $receives := has $role (list "receive" "serve") -}}
metadata:
  labels:
    {{- include "ichor.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ $role }}
  annotations:
    checksum/config: {{ include (print $root.Template.BasePath "/configmap.yaml") $root | sha256sum }}
    kubectl.kubernetes.io/default-container: ichor
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "ichor.name" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false  # their variables begin with the release's name, and ICHOR_* are settings
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if $gpu }}{{ with $root.Values.work.gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}{{ end }}
  # The metrics container tells the dead from the living among those who counted.
  shareProcessNamespace: {{ $counted }}
  terminationGracePeriodSeconds: {{ if $receives }}{{ add $values.drainSeconds 30 }}{{ else }}{{ $values.terminationGracePeriodSeconds | default 30 }}{{ end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ $root.Values.user }}
    runAsGroup: {{ $root.Values.user }}
    fsGroup: {{ $root.Values.user }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: ichor
      image: {{ $image }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args: [{{ $role }}, --config, /etc/ichor/ichor.toml]
      {{- include "ichor.security" . | nindent 6 }}
      env:
        {{- if and $receives (eq $root.Values.mode "cluster") }}
        - name: ICHOR_STORE__RECEIVER
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- end }}
        {{- if and $own (eq $root.Values.mode "cluster") }}
        - name: ICHOR_BUS__KAFKA__MEMBER  # a pod that is back takes up its own at once
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        {{- end }}
        {{- with $root.Values.kafka.sasl.secret }}{{ if and .name (eq $root.Values.mode "cluster") }}
        - name: ICHOR_BUS__KAFKA__USERNAME
          valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .username }}}}
        {{- end }}{{ end }}
        {{- if $counted }}
        - {name: PROMETHEUS_MULTIPROC_DIR, value: /run/ichor-metrics}
        {{- end }}
        - {name: HOME, value: /tmp}
      {{- include "ichor.credentials" $root | nindent 6 }}
      {{- if or $receives (eq $role "console") }}
      ports:
        {{- if $receives }}
        - {name: dicom, containerPort: 11112}
        {{- if $root.Values.receive.stow.enabled }}
        - {name: stow, containerPort: 8042}
        {{- end }}
        {{- end }}
        {{- if not $counted }}
        - {name: metrics, containerPort: 8080}
        {{- end }}
      {{- end }}
      {{- if $counted }}
      startupProbe:
        {{- include "ichor.probe" .ready | nindent 8 }}
        periodSeconds: 2
        failureThreshold: 150
      readinessProbe:
        {{- include "ichor.probe" .ready | nindent 8 }}
        periodSeconds: 5
      livenessProbe:  # a role that its supervisor starts again is no reason to end the others
        {{- include "ichor.probe" (list (first .ready)) | nindent 8 }}
        periodSeconds: 20
        failureThreshold: 4
      {{- else }}
      startupProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 2
        failureThreshold: 150
      readinessProbe:
        httpGet: {path: /readyz, port: metrics}
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:
        httpGet: {path: /healthz, port: metrics}
        periodSeconds: 20
        timeoutSeconds: 5
        failureThreshold: 4
      {{- end }}
      {{- if $receives }}
      lifecycle:
        preStop:  # first out of the Service, then until all that was received is told
          exec:
            command: [sh, -c, 'sleep 5; ichor told --wait {{ $values.drainSeconds }}s --config /etc/ichor/ichor.toml || true']
      {{- else if eq $role "console" }}
      lifecycle:
        preStop: {exec: {command: [sleep, "5"]}}
      {{- end }}
      resources:
        {{- $resources := deepCopy $values.resources }}
        {{- if $gpu }}
        {{- $limits := $resources.limits | default dict }}
        {{- $_ := set $resources "limits" (set $limits $root.Values.work.gpu.resource $root.Values.work.gpu.count) }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      volumeMounts:
        - {name: config, mountPath: /etc/ichor, readOnly: true}
        - {name: data, mountPath: /var/lib/ichor}
        - {name: tmp, mountPath: /tmp}
        {{- if $counted }}
        - {name: metrics, mountPath: /run/ichor-metrics}
        {{- if $own }}
        - {name: run, mountPath: /var/lib/ichor/run}  # what a pod before this one left says nothing of this one's roles
        {{- end }}
        {{- end }}
        {{- if include "ichor.store.volume" $root }}
        - {name: store, mountPath: /mnt/ichor}
        {{- end }}
        {{- if and $receives $root.Values.secrets.passcodes.name }}
        - {name: passcodes, mountPath: /run/passcodes, readOnly: true}
        {{- end }}
    {{- if $counted }}
    - name: metrics  # a role alone serves no HTTP
      image: {{ $image }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      command: [python, /etc/ichor/pod.py, /run/ichor-metrics]
      {{- include "ichor.security" . | nindent 6 }}
      ports:
        - {name: metrics, containerPort: 9090}
      livenessProbe:
        tcpSocket: {port: metrics}
        periodSeconds: 30
      resources:
        requests: {cpu: 10m, memory: 64Mi}
        limits: {memory: 256Mi}
      volumeMounts:
        - {name: config, mountPath: /etc/ichor, readOnly: true}
        - {name: metrics, mountPath: /run/ichor-metrics}
        {{- if $receives }}
        - {name: data, mountPath: /var/lib/ichor}
        {{- end }}
        - {name: tmp, mountPath: /tmp}
    {{- end }}
  volumes:
    - name: config
      projected:
        defaultMode: 0440
        sources:
          - configMap: {name: {{ include "ichor.name" $root }}}
          - secret:
              name: {{ $root.Values.secrets.consoleToken.name }}
              items: [{key: {{ $root.Values.secrets.consoleToken.key }}, path: console-token}]
          {{- if $receives }}
          {{- with $root.Values.secrets.listenerTLS }}{{ if .name }}
          - secret:
              name: {{ .name }}
              items:
                - {key: tls.crt, path: tls/tls.crt}
                - {key: tls.key, path: tls/tls.key}
                {{- if .clients }}
                - {key: ca.crt, path: tls/ca.crt}
                {{- end }}
          {{- end }}{{ end }}
          {{- with $root.Values.receive.stow }}{{ if .enabled }}
          - secret:
              name: {{ .token.name }}
              items: [{key: {{ .token.key }}, path: stow-token}]
          {{- end }}{{ end }}
          {{- end }}
          {{- include "ichor.kafka.sources" $root | nindent 10 }}
    {{- if and $receives $root.Values.secrets.passcodes.name }}
    - {name: passcodes, secret: {secretName: {{ $root.Values.secrets.passcodes.name }}, defaultMode: 0440}}
    {{- end }}
    - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
    {{- if not $own }}
    - {name: data, emptyDir: {sizeLimit: {{ $root.Values.scratch }}}}  # what lasts is in Kafka and the store
    {{- end }}
    {{- if $counted }}
    - {name: metrics, emptyDir: {medium: Memory, sizeLimit: 64Mi}}  # mapped: on a full disk it would end who counts
    {{- if $own }}
    - {name: run, emptyDir: {sizeLimit: 64Mi}}
    {{- end }}
    {{- end }}
    {{- if include "ichor.store.volume" $root }}
    - {name: store, persistentVolumeClaim: {claimName: {{ include "ichor.store.claim" $root }}}}
    {{- end }}
  {{- $selector := get $values "nodeSelector" | default dict }}
  {{- $tolerations := get $values "tolerations" | default list }}
  {{- if $gpu }}
  {{- $selector = merge (deepCopy $selector) $root.Values.work.gpu.nodeSelector }}
  {{- $tolerations = concat $tolerations $root.Values.work.gpu.tolerations }}
  {{- end }}
  {{- with $selector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with $values.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}

{{- define "ichor.security" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Of ready files: each names a process that lives. */}}
{{- define "ichor.probe" -}}
exec:
  command: [sh, -c, 'for role in {{ join " " . }}; do kill -0 "$(cat /var/lib/ichor/run/$role.ready)" || exit 1; done']
timeoutSeconds: 5
{{- end -}}

{{- define "ichor.credentials" -}}
{{- with .Values.store.credentials.name -}}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end -}}
{{- end -}}

{{- define "ichor.store.claim" -}}
{{ .Values.store.existingClaim | default (print (include "ichor.name" .) "-store") }}
{{- end -}}

{{/* Sources of the configuration volume that Kafka's TLS and SASL need. */}}
{{- define "ichor.kafka.sources" -}}
{{- if eq .Values.mode "cluster" -}}
{{- with .Values.kafka.tls.ca }}{{ if .name }}
- secret:
    name: {{ .name }}
    items: [{key: {{ .key }}, path: kafka/ca.crt}]
{{- end }}{{ end }}
{{- with .Values.kafka.tls.client }}{{ if .name }}
- secret:
    name: {{ .name }}
    items: [{key: tls.crt, path: kafka/tls.crt}, {key: tls.key, path: kafka/tls.key}]
{{- end }}{{ end }}
{{- with .Values.kafka.sasl.secret }}{{ if .name }}
- secret:
    name: {{ .name }}
    items: [{key: {{ .password }}, path: kafka/password}]
{{- end }}{{ end }}
{{- end -}}
{{- end -}}
