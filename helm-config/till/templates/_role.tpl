{{/* One role: its Deployment, Service and PodDisruptionBudget. Takes {root, role}. */}}
{{- define "till.role" -}}
{{- $own := fromYaml (include "till.yaml" (list "till.values" .)) -}}
{{- $here := dict "root" .root "role" .role "own" $own -}}
{{- $name := printf "%s-%s" (include "till.fullname" .root) .role -}}
{{- $labels := keys (fromYaml (include "till.yaml" (list "till.labels" .))) -}}
{{- $where := printf "roles.%s.podLabels or defaults.podLabels" .role -}}
{{- include "till.free" (dict "where" $where "names" (keys (default dict $own.podLabels)) "theirs" $labels) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels: {{- include "till.labels" . | nindent 4 }}
spec:
  {{- if not $own.autoscaling.enabled }}
  replicas: {{ $own.replicas | int64 }}
  {{- else }}
  {{- with (lookup "apps/v1" "Deployment" .root.Release.Namespace $name).spec }}
  # The current number: without one it would become 1, and at 0 the autoscaler does nothing.
  replicas: {{ max (int64 $own.autoscaling.minReplicas) (int64 .replicas) }}
  {{- end }}
  {{- end }}
  revisionHistoryLimit: 3
  strategy:
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
  selector:
    matchLabels: {{- include "till.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "till.labels" . | nindent 8 }}
        {{- with include "till.texts" $own.podLabels }}
        {{- . | nindent 8 }}
        {{- end }}
      {{- with include "till.texts" $own.podAnnotations }}
      annotations: {{- . | nindent 8 }}
      {{- end }}
    spec: {{- include "till.pod" $here | nindent 6 }}
---
{{ include "till.service" . }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels: {{- include "till.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # Without the store no pod is ready; nodes can be drained even then.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels: {{- include "till.selector" . | nindent 6 }}
{{- end -}}

{{/* Takes {root, role, own}. */}}
{{- define "till.pod" -}}
serviceAccountName: {{ include "till.fullname" .root | quote }}
automountServiceAccountToken: false
# Kubernetes would add variables such as TILL_ORDER_PORT, which would be taken for settings.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ add 5 (include "till.seconds" (add (int64 .own.lameDuckMs) (int64 .own.drainTimeoutMs))) }}
{{- with .own.podSecurityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with include "till.texts" .own.nodeSelector }}
nodeSelector: {{- . | nindent 2 }}
{{- end }}
{{- with .own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
  {{- range $key := list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ $key }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{- include "till.selector" $ | nindent 8 }}
  {{- end }}
containers:
  - {{ include "till.container" . | nindent 4 | trim }}
{{- with fromYamlArray (include "till.yaml" (list "till.mounts" .)) }}
volumes:
  {{- range . }}
  - name: {{ .name }}
    {{- if .secret }}
    secret: {secretName: {{ .secret | quote }}, defaultMode: 0440}
    {{- else }}
    emptyDir: {sizeLimit: {{ .size | quote }}}
    {{- end }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Takes {root, role, own}. */}}
{{- define "till.container" -}}
{{- $port := int (index (fromYaml (include "till.yaml" (list "till.table" .root))) .role).port -}}
{{- $isGrpc := ne .role "http-bridge" -}}
{{- $variables := fromYaml (include "till.yaml" (list "till.variables" .)) -}}
{{- $names := keys .own.env -}}
{{- range .own.extraEnv }}{{ $names = append $names .name }}{{ end -}}
{{- $where := printf "env or extraEnv of roles.%s or of defaults" .role -}}
{{- include "till.free" (dict "where" $where "names" $names "theirs" (keys $variables)) -}}
name: {{ .role }}
image: {{ include "till.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [{{ .role }}, "--listen=[::]:{{ $port }}", "--listen=0.0.0.0:{{ $port }}"]
ports:
  - name: {{ ternary "grpc" "http" $isGrpc }}
    containerPort: {{ $port }}
  - name: metrics
    containerPort: {{ include "till.metrics.port" .root }}
env:
  {{- range $variable, $value := merge $variables .own.env }}
  - name: {{ $variable }}
    value: {{ include "till.text" $value | quote }}
  {{- end }}
  {{- if and .root.Values.otlp.endpoint .root.Values.otlp.headers.secretName }}
  - name: OTEL_EXPORTER_OTLP_HEADERS
    valueFrom:
      secretKeyRef: {name: {{ .root.Values.otlp.headers.secretName | quote }}, key: headers}
  {{- end }}
  {{- with .own.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
resources: {{- toYaml .own.resources | nindent 2 }}
{{- with .own.securityContext }}
securityContext: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with fromYamlArray (include "till.yaml" (list "till.mounts" .)) }}
volumeMounts:
  {{- range . }}
  - name: {{ .name }}
    mountPath: {{ .path }}
    {{- if .secret }}
    readOnly: true
    {{- end }}
  {{- end }}
{{- end }}
# Alive is not ready: no role is restarted because the store or another role is away. A role listens at once, and is
# ready a second or two after the store answers. Earlier probes would only cause events of type Warning.
{{- if and $isGrpc .root.Values.grpc.tls.enabled }}
# The kubelet's own gRPC probes do not support TLS.
{{- $ask := printf "/usr/local/bin/till, health, --endpoint, '127.0.0.1:%d'" $port }}
startupProbe:
  exec: {command: [{{ $ask }}, --service, till.live]}
  initialDelaySeconds: 2
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  exec: {command: [{{ $ask }}, --service, till.live]}
  periodSeconds: 20
  timeoutSeconds: 5
readinessProbe:
  exec: {command: [{{ $ask }}]}
  initialDelaySeconds: 4
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- else if $isGrpc }}
startupProbe:
  grpc: {port: {{ $port }}, service: till.live}
  initialDelaySeconds: 2
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  grpc: {port: {{ $port }}, service: till.live}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  grpc: {port: {{ $port }}, service: ""}
  initialDelaySeconds: 4
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- else }}
startupProbe:
  httpGet: {path: /healthz, port: http}
  initialDelaySeconds: 2
  periodSeconds: 1
  timeoutSeconds: 5
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: http}
  # The bridge needs a ready replica of every service, and these start at the same time.
  initialDelaySeconds: 8
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}
{{- end -}}

{{/* Headless for gRPC: callers see every replica and route shards to them. Takes {root, role}. */}}
{{- define "till.service" -}}
{{- $port := int (index (fromYaml (include "till.yaml" (list "till.table" .root))) .role).port -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "till.fullname" .root }}-{{ .role }}
  labels: {{- include "till.labels" . | nindent 4 }}
  {{- if eq .role "http-bridge" }}
  {{- with include "till.texts" .root.Values.bridge.service.annotations }}
  annotations: {{- . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .root.Values.bridge.service.type }}
  ports:
    - name: http
      port: {{ .root.Values.bridge.service.port | int64 }}
      targetPort: http
  {{- else }}
spec:
  clusterIP: None
  ports:
    - name: grpc
      port: {{ $port }}
      targetPort: grpc
      {{- if not .root.Values.grpc.tls.enabled }}
      appProtocol: kubernetes.io/h2c
      {{- end }}
  {{- end }}
  selector: {{- include "till.selector" . | nindent 4 }}
{{- end -}}
