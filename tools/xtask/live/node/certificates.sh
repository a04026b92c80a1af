#!/usr/bin/env bash
# Certificates and the administrator's configuration of one node, in the present folder.
set -euo pipefail

NODE=10.250.0.1

key() { # what every certificate here is made with
  openssl req "$@" -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes
}

sign() { # NAME SUBJECT NAMES
  key -subj "$2" -keyout "$1.key" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out "$1.crt" \
    -extfile <(printf 'extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=%s\n' "$3")
}

key -x509 -days 2 -subj /CN=node -keyout ca.key -out ca.crt
sign apiserver /CN=kube-apiserver \
  "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:127.0.0.1,IP:$NODE,IP:10.96.0.1"
sign admin /O=system:masters/CN=admin DNS:admin
sign front-proxy /CN=front-proxy DNS:front-proxy
sign kubelet /O=system:nodes/CN=system:node:node0 "DNS:node0,IP:$NODE"
openssl genrsa -out accounts.key 2048
openssl rsa -in accounts.key -pubout -out accounts.pub
cat >admin.conf <<CONF
apiVersion: v1
kind: Config
clusters: [{name: node, cluster: {server: "https://$NODE:6443", certificate-authority: /run/pki/ca.crt}}]
users: [{name: admin, user: {client-certificate: /run/pki/admin.crt, client-key: /run/pki/admin.key}}]
contexts: [{name: minikube, context: {cluster: node, user: admin}}]
current-context: minikube
CONF
