#!/bin/bash
# Sends random requests, made from the server's own document, to a running server: no answer may be a
# fault of the server, or look other than the document says.
#
#   tests/clients/schemathesis.sh http://127.0.0.1:8000 [FLAGS OF SCHEMATHESIS]
#
# Give the server a short context, as in `cairn serve --max-model-len 128`: some requests use all of
# it. Draining is left out: a server that drains refuses the rest.
#
# Installs schemathesis, with the versions of schemathesis.txt, into a virtual environment: that of
# $SCHEMATHESIS_VENV, or one below target/.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: $0 BASE_URL [FLAGS OF SCHEMATHESIS]" >&2
    exit 2
fi
base=${1%/}
shift
here=$(cd "$(dirname "$0")" && pwd)
venv=${SCHEMATHESIS_VENV:-$here/../../target/schemathesis}

if ! cmp -s "$here/schemathesis.txt" "$venv/installed.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/schemathesis.txt"
    cp "$here/schemathesis.txt" "$venv/installed.txt"
fi

checks=not_a_server_error,status_code_conformance,content_type_conformance
checks+=,response_headers_conformance,response_schema_conformance
checks+=,negative_data_rejection

export PYTHONPATH=$here SCHEMATHESIS_HOOKS=schemathesis_hooks
exec "$venv/bin/st" run "$base/openapi.json" --url "$base" --checks "$checks" \
    --exclude-path /admin/drain --phases coverage,fuzzing --seed 1 --max-examples 60 --request-timeout 60 "$@"
