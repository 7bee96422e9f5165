{{- define "fs.name" -}}
{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{/* Labels that select the pods of a component: dict "root" . "component" … */}}
{{- define "fs.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "fs.labels" -}}
{{ include "fs.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "fs.redisHost" -}}
{{ .Values.redis.host | default (printf "%s-redis" (include "fs.name" .)) }}
{{- end }}

{{- define "fs.pushgatewayUrl" -}}
{{ .Values.pushgateway.url | default (printf "http://%s-pushgateway:9091" (include "fs.name" .)) }}
{{- end }}

{{/* What all pods have in common: dict "root" . "user" … "group" … */}}
{{- define "fs.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ .user }}
  runAsGroup: {{ .group }}
  fsGroup: {{ .group }}
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{- define "fs.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/* Spreads replicas over nodes. */}}
{{- define "fs.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels:
        {{- include "fs.selector" . | nindent 8 }}
{{- end }}

{{- define "fs.disruption" -}}
{{- if and .root.Values.podDisruptionBudget (gt (int .replicas) 1) }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "fs.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # Pods that are not ready do not block a drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "fs.selector" . | nindent 6 }}
{{- end }}
{{- end }}

{{/* The app's Spin variables, as a list of dicts of name and value or valueFrom. */}}
{{- define "fs.variables" -}}
- name: metrics_backend
  value: {{ .Values.scheme }}
- name: metrics_durability
  value: {{ .Values.app.durability }}
- name: metrics_prefix
  value: {{ .Values.metricsPrefix | quote }}
{{- if eq .Values.scheme "redis" }}
- name: redis_host
  value: {{ include "fs.redisHost" . | quote }}
- name: redis_port
  value: {{ .Values.redis.port | quote }}
- name: redis_metrics_db
  value: {{ .Values.redis.db | quote }}
- name: redis_tls
  value: {{ .Values.redis.tls | quote }}
- name: redis_username
  value: {{ .Values.redis.appUser | quote }}
- name: redis_password
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.secret }}
      key: {{ .Values.redis.appPasswordKey }}
{{- end }}
{{- if eq .Values.scheme "pushgateway" }}
- name: pushgateway_url
  value: {{ include "fs.pushgatewayUrl" . }}
{{- end }}
# The pod's name, for the label `instance` of pushed metrics.
- name: instance_id
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- with .Values.app.apiKeySecret }}
- name: api_key
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: api_key
{{- end }}
{{- with .Values.app.replayKeySecret }}
- name: replay_key
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: replay_key
{{- end }}
{{- range $name, $value := .Values.app.variables }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{/* How the exporter reaches Redis, as environment variables. */}}
{{- define "fs.exporterRedis" -}}
- name: METRICS_PREFIX
  value: {{ .Values.metricsPrefix | quote }}
- name: REDIS_HOST
  value: {{ include "fs.redisHost" . | quote }}
- name: REDIS_PORT
  value: {{ .Values.redis.port | quote }}
- name: REDIS_METRICS_DB
  value: {{ .Values.redis.db | quote }}
- name: REDIS_TLS
  value: {{ .Values.redis.tls | quote }}
- name: REDIS_USERNAME
  value: {{ .Values.redis.exporterUser | quote }}
- name: REDIS_PASSWORD_FILE
  value: /etc/exporter/redis/password
{{- if .Values.redis.caSecret }}
- name: REDIS_CA_FILE
  value: /etc/exporter/redis-ca/ca.crt
{{- end }}
{{- end }}

{{/* The files that these name, as sources of a volume at /etc/exporter. */}}
{{- define "fs.exporterFiles" -}}
- secret:
    name: {{ .Values.redis.secret }}
    items:
      - key: {{ .Values.redis.exporterPasswordKey }}
        path: redis/password
{{- with .Values.redis.caSecret }}
- secret:
    name: {{ . }}
    items:
      - key: ca.crt
        path: redis-ca/ca.crt
{{- end }}
{{- end }}

{{/* Credentials and TLS of what the exporter's program serves, as environment variables. */}}
{{- define "fs.exporterProtection" -}}
{{- if .Values.exporter.bearerSecret }}
- name: EXPORTER_AUTH_BEARER_FILE
  value: /etc/exporter/bearer/token
{{- end }}
{{- if .Values.exporter.basicSecret }}
- name: EXPORTER_AUTH_BASIC_FILE
  value: /etc/exporter/basic/users
{{- end }}
{{- if .Values.exporter.tlsSecret }}
- name: EXPORTER_TLS_CERT_FILE
  value: /etc/exporter/tls/tls.crt
- name: EXPORTER_TLS_KEY_FILE
  value: /etc/exporter/tls/tls.key
{{- end }}
{{- end }}

{{/* The files that these name, as sources of a volume at /etc/exporter. */}}
{{- define "fs.exporterProtectionFiles" -}}
{{- with .Values.exporter.bearerSecret }}
- secret:
    name: {{ . }}
    items:
      - key: token
        path: bearer/token
{{- end }}
{{- with .Values.exporter.basicSecret }}
- secret:
    name: {{ . }}
    items:
      - key: users
        path: basic/users
{{- end }}
{{- with .Values.exporter.tlsSecret }}
- secret:
    name: {{ . }}
    items:
      - key: tls.crt
        path: tls/tls.crt
      - key: tls.key
        path: tls/tls.key
{{- end }}
{{- end }}

{{- define "fs.exporterProbe" -}}
httpGet:
  path: /healthz
  port: metrics
  scheme: {{ ternary "HTTPS" "HTTP" (ne .Values.exporter.tlsSecret "") }}
{{- end }}
