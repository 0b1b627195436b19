#!/usr/bin/env bash
# From sources to an enclave image in one go: framework, kernel, application.
#
# Usage: ./rbuilds.sh [FOLDER] [glasshouse build options...]
#   FOLDER    with a glasshouse.toml; default: the current folder. Options are those of `glasshouse build --help`,
#             such as --output, --builder, --sign-key.
#   --help    this text
#
# Framework and kernel are built once and kept; the same sources give the same bytes everywhere. Exit: as
# `glasshouse build`; 3 when framework or kernel cannot be built.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
case ${1:-} in
    --help | -h) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -* | '') folder=. ;;
    *) folder=$1; shift ;;
esac

"$here/tools/build" >&2 || exit 3
"$here/tools/kernel/build" >/dev/null || exit 3
exec "$here/target/static/x86_64-unknown-linux-gnu/release/glasshouse" build "$folder" "$@"
