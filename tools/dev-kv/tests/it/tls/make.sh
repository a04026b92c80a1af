#!/bin/sh
# Makes the certificates of tls.rs anew, valid for a hundred years: two authorities, and who they vouch for on this
# machine. Nothing else trusts them.
set -eu
cd "$(dirname "$0")"
for authority in ours theirs; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 36500 -subj "/CN=$authority" \
        -keyout ca.key -out "$authority-ca.pem" 2>/dev/null
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$authority" \
        -keyout "$authority.key" -out request.pem 2>/dev/null
    printf '%s\n' 'subjectAltName=IP:127.0.0.1' 'extendedKeyUsage=serverAuth,clientAuth' >extensions
    openssl x509 -req -in request.pem -CA "$authority-ca.pem" -CAkey ca.key -days 36500 -extfile extensions \
        -out "$authority.pem" 2>/dev/null
    rm ca.key request.pem extensions
done
