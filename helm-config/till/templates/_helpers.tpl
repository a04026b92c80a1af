{{/* The roles, their ports, and who calls whom. Endpoints and network policies are derived from it. */}}
{{- define "till.table" -}}
order:       {port: 7100, store: true, calls: [stock, coordinator]}
stock:       {port: 7200, store: true, calls: [coordinator]}
payment:     {port: 7300, store: true, calls: [coordinator]}
coordinator: {port: 7000, store: true, calls: [order, stock, payment]}
http-bridge: {port: 8000, store: false, calls: [coordinator, order, stock, payment]}
{{- end -}}

{{/* Prefix of every object's name. A release may be called 7.shop, but a Service may not. */}}
{{- define "till.fullname" -}}
{{- $name := default .Release.Name .Values.fullnameOverride | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $name) -}}
{{- $name = printf "till-%s" $name -}}
{{- end -}}
{{- $name | trunc 40 | trimAll "-" -}}
{{- end -}}

{{/* The text of another template, which must be YAML: fromYaml returns bad text as a key `Error`. Takes [the template's
name, its argument]. */}}
{{- define "till.yaml" -}}
{{- $text := include (index . 0) (index . 1) -}}
{{- with (fromYaml (printf "text: %s" (nindent 2 $text))).Error -}}
{{- fail (printf "%s is not YAML: %s" (index $ 0) .) -}}
{{- end -}}
{{- $text -}}
{{- end -}}

{{/* A value as text: helm reads every number as a float, which prints large ones as 8.64e+07. */}}
{{- define "till.text" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{- define "till.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* Labels or annotations, whose values Kubernetes requires as text. */}}
{{- define "till.texts" -}}
{{- $lines := list -}}
{{- range $name, $value := . -}}
{{- $lines = append $lines (printf "%s: %s" (quote $name) (include "till.text" $value | quote)) -}}
{{- end -}}
{{- join "\n" $lines -}}
{{- end -}}

{{/* Labels of an object that never change. Takes {root, role}, and {instance} if it is not the release's. */}}
{{- define "till.selector" -}}
app.kubernetes.io/name: till
app.kubernetes.io/instance: {{ default .root.Release.Name .instance | quote }}
app.kubernetes.io/component: {{ .role }}
{{- end -}}

{{/* Takes {root, role}. */}}
{{- define "till.labels" -}}
{{ include "till.selector" . }}
app.kubernetes.io/part-of: till
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- end -}}

{{/* A role's values merged over the defaults, as YAML. Takes {root, role}. The bridge drains for longer than a request
may take, unless its own values set the time. */}}
{{- define "till.values" -}}
{{- $own := index .root.Values.roles .role | default dict -}}
{{- $all := mergeOverwrite (deepCopy .root.Values.defaults) $own -}}
{{- if and (eq .role "http-bridge") (not (hasKey $own "drainTimeoutMs")) -}}
{{- $patience := add 5000 (int64 .root.Values.bridge.requestTimeoutMs) -}}
{{- $all = set $all "drainTimeoutMs" (max $patience (int64 $all.drainTimeoutMs)) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end -}}

{{/* Refuses names that the chart sets itself. Takes {where, names, theirs}. */}}
{{- define "till.free" -}}
{{- range $name := .names -}}
{{- if has $name $.theirs -}}
{{- $instead := get (dict "TILL_LAME_DUCK_MS" ", from lameDuckMs" "TILL_DRAIN_TIMEOUT_MS" ", from drainTimeoutMs") $name -}}
{{- fail (printf "%s: the chart itself sets %s%s" $.where $name $instead) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "till.store.name" -}}
{{- include "till.fullname" . }}-store
{{- end -}}

{{/* The label app.kubernetes.io/instance of PD's and TiKV's pods. tidb-operator takes it from the TidbCluster's label,
or else from its name. The TidbCluster, the network policies and NOTES use this template. */}}
{{- define "till.store.instance" -}}
{{- default (include "till.store.name" .) .Values.store.tidbCluster.instance -}}
{{- end -}}

{{/* Labels that tidb-operator gives to every pod of the TidbCluster. */}}
{{- define "till.store.selector" -}}
app.kubernetes.io/name: tidb-cluster
app.kubernetes.io/instance: {{ include "till.store.instance" . | quote }}
{{- end -}}

{{/* The addresses of the store; exactly one must be configured. */}}
{{- define "till.store.endpoints" -}}
{{- $own := .Values.store.tidbCluster.enabled -}}
{{- $theirs := .Values.store.pdEndpoints -}}
{{- if and $own $theirs -}}
{{- fail "store.pdEndpoints and store.tidbCluster.enabled exclude each other: name your TiKV or have one made" -}}
{{- else if $own -}}
{{ include "till.store.name" . }}-pd:2379
{{- else if $theirs -}}
{{ join "," $theirs }}
{{- else -}}
{{- fail "no store: set store.pdEndpoints, or store.tidbCluster.enabled" -}}
{{- end -}}
{{- end -}}

{{/* The variables that configure access to the store. */}}
{{- define "till.store.variables" -}}
PD_ENDPOINTS: {{ include "till.store.endpoints" . | quote }}
{{- with .Values.store.shards }}
TILL_SHARDS: {{ . | int64 | quote }}
{{- end }}
{{- if .Values.store.tls.secretName }}
TILL_STORE_CA_FILE: /etc/till/store/ca.crt
TILL_STORE_CERT_FILE: /etc/till/store/tls.crt
TILL_STORE_KEY_FILE: /etc/till/store/tls.key
{{- end }}
{{- end -}}

{{/* Milliseconds as whole seconds, rounded up. */}}
{{- define "till.seconds" -}}
{{- div (add (int64 .) 999) 1000 -}}
{{- end -}}

{{/* The variables TILL_ORDER_ENDPOINTS and so on. Takes {root, role}. */}}
{{- define "till.endpoints" -}}
{{- $table := fromYaml (include "till.yaml" (list "till.table" .root)) -}}
{{- range $callee := (index $table .role).calls }}
{{ printf "TILL_%s_ENDPOINTS" (upper $callee) }}: {{ printf "dns:%s-%s:%d" (include "till.fullname" $.root) $callee (int (index $table $callee).port) | quote }}
{{- end -}}
{{- end -}}

{{/* The port at which every role serves /metrics, /livez and /readyz. */}}
{{- define "till.metrics.port" -}}
9100
{{- end -}}

{{/* The collector's port: that of the endpoint, or its scheme's default. */}}
{{- define "till.otlp.port" -}}
{{- $url := urlParse .Values.otlp.endpoint -}}
{{- default (ternary "443" "80" (eq $url.scheme "https")) (regexFind ":[0-9]+$" $url.host | trimPrefix ":") -}}
{{- end -}}

{{/* The name of a role's secret for mTLS. Takes {root, role}. Each release in a namespace has its own. */}}
{{- define "till.grpc.secret" -}}
{{- default (printf "%s-grpc" (include "till.fullname" .root)) .root.Values.grpc.tls.secretPrefix }}-{{ .role }}
{{- end -}}

{{- define "till.ingress.secret" -}}
{{- default (printf "%s-tls" (include "till.fullname" .)) .Values.ingress.tls.secretName -}}
{{- end -}}

{{/* A role's volumes: its secrets and, if it may audit, scratch space. Takes {root, role, own}. */}}
{{- define "till.mounts" -}}
{{- $values := .root.Values -}}
{{- if (index (fromYaml (include "till.yaml" (list "till.table" .root))) .role).store }}
- {name: tmp, path: /tmp, size: {{ .own.tmpSize | quote }}}
{{- with $values.store.tls.secretName }}
- {name: store-tls, path: /etc/till/store, secret: {{ . | quote }}}
{{- end }}
{{- end }}
{{- if $values.grpc.tls.enabled }}
- {name: tls, path: /etc/till/tls, secret: {{ include "till.grpc.secret" . | quote }}}
{{- end }}
{{- if and (eq .role "http-bridge") $values.bridge.apiKey.secretName }}
- {name: api-key, path: /etc/till/api-key, secret: {{ $values.bridge.apiKey.secretName | quote }}}
{{- end }}
{{- end -}}

{{/* A role's variables, except those of `env` and `extraEnv`. Takes {root, role, own}. */}}
{{- define "till.variables" -}}
{{- $values := .root.Values -}}
TILL_LOG_FORMAT: {{ $values.log.format | quote }}
{{- with $values.log.filter }}
TILL_LOG: {{ . | quote }}
{{- end }}
TILL_LAME_DUCK_MS: {{ .own.lameDuckMs | int64 | quote }}
TILL_DRAIN_TIMEOUT_MS: {{ .own.drainTimeoutMs | int64 | quote }}
TILL_ADMIN_LISTEN: {{ printf "[::]:%s,0.0.0.0:%s" (include "till.metrics.port" .root) (include "till.metrics.port" .root) | quote }}
{{- include "till.endpoints" . }}
{{- if $values.otlp.endpoint }}
OTEL_EXPORTER_OTLP_ENDPOINT: {{ $values.otlp.endpoint | quote }}
OTEL_EXPORTER_OTLP_PROTOCOL: {{ $values.otlp.protocol | quote }}
OTEL_TRACES_SAMPLER: parentbased_traceidratio
OTEL_TRACES_SAMPLER_ARG: {{ include "till.text" $values.otlp.sampling | quote }}
{{- end }}
{{- if $values.grpc.tls.enabled }}
TILL_TLS_CA_FILE: /etc/till/tls/ca.crt
TILL_TLS_CERT_FILE: /etc/till/tls/tls.crt
TILL_TLS_KEY_FILE: /etc/till/tls/tls.key
TILL_TLS_TRUST_DOMAIN: {{ $values.grpc.tls.trustDomain | quote }}
{{- end }}
{{- if (index (fromYaml (include "till.yaml" (list "till.table" .root))) .role).store }}
{{- if not $values.grpc.tls.enabled }}
TILL_INSECURE: "true"
{{- end }}
{{ include "till.store.variables" .root }}
{{- else }}
TILL_REQUEST_TIMEOUT_MS: {{ $values.bridge.requestTimeoutMs | int64 | quote }}
TILL_BATCH_INIT_TIMEOUT_MS: {{ $values.bridge.batchInitTimeoutMs | int64 | quote }}
{{- if $values.bridge.apiKey.secretName }}
TILL_API_KEY_FILE: /etc/till/api-key/keys
{{- end }}
{{- if and $values.ingress.enabled $values.ingress.mintsRequestId }}
TILL_TRUST_REQUEST_ID: "true"
{{- end }}
{{- end }}
{{- end -}}
