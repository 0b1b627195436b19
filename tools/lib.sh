# Shared by the scripts of this folder: messages, the cache, Debian packages, sources by digest.
# Sourced, not run. Bash, with `set -euo pipefail` in the caller.

export LC_ALL=C TZ=UTC
umask 022

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 3; }

# Everything expensive is built once into this folder, under the digest of what it was made from.
cache_dir() { printf '%s' "${GLASSHOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/glasshouse}"; }

sha256() { sha256sum "$1" | cut -d' ' -f1; }

# need PACKAGE...: installs the Debian packages that are missing, or says how.
need() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "Debian packages are missing; as root, run: apt-get install ${missing[*]}"
        sudo=(sudo)
    fi
    say "installing Debian packages: ${missing[*]}"
    "${sudo[@]}" apt-get update -qq >&2 || say "apt-get update failed; trying with the lists that are here"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
        die "installing failed; run: apt-get install ${missing[*]}"
}

# with_progress LABEL LOG COMMAND...: runs a long command with its output in LOG and its age and last line on a terminal.
with_progress() {
    local label=$1 log=$2 start=$SECONDS pid
    shift 2
    "$@" >"$log" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        if [ -t 2 ]; then
            printf '\r\033[K%s: %ds  %.70s' "$label" $((SECONDS - start)) "$(tail -n 1 "$log" | tr -cd '[:print:]')" >&2
        fi
        sleep 1
    done
    [ -t 2 ] && printf '\r\033[K' >&2
    if ! wait "$pid"; then
        tail -n 30 "$log" >&2
        die "$label failed after $((SECONDS - start))s; the whole output is in $log"
    fi
    say "$label: done in $((SECONDS - start))s"
}

# apt_isolated SUITE TYPE DIR: prints apt options for one suite of the mirror this machine is set up with, so that a
# suite can be read without changing the machine's own configuration.
apt_isolated() {
    local suite=$1 type=$2 dir=$3 uri
    uri=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) bookworm .*/\2/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources 2>/dev/null | head -n 1)
    [ -n "$uri" ] || die "no Debian mirror is configured under /etc/apt: add one, or give the source as a file"
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    printf 'Types: %s\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' \
        "$type" "$uri" "$suite" /usr/share/keyrings/debian-archive-keyring.gpg >"$dir/suite.sources"
    printf '%s\n' -o "Dir::Etc::sourcelist=$dir/suite.sources" -o Dir::Etc::sourceparts=/dev/null \
        -o "Dir::State::lists=$dir/lists" -o "Dir::Cache=$dir/cache" -o APT::Sandbox::User=root
}

# obtain LOCATION OUT: fetches one candidate of a source to OUT; fails quietly when it is not to be had there.
#   file:PATH                       a file of this machine
#   https://...                     any web server
#   deb:PACKAGE=VERSION:PATH        a file inside a binary package of the configured mirrors
#   deb-src:SUITE:PACKAGE:FILE      a file of a source package of that suite
obtain() {
    local location=$1 out=$2 dir
    dir=$(mktemp -d)
    case $location in
        file:*) cp "${location#file:}" "$out" ;;
        https://*) command -v curl >/dev/null && curl -fsSL --connect-timeout 20 -o "$out" "$location" ;;
        deb:*)
            local rest=${location#deb:}
            (cd "$dir" && apt-get -o APT::Sandbox::User=root download -qq "${rest%%:*}" && dpkg -x ./*.deb unpacked) &&
                mv "$dir/unpacked/${rest#*:}" "$out"
            ;;
        deb-src:*)
            local suite package file options
            IFS=: read -r _ suite package file <<<"$location"
            mapfile -t options < <(apt_isolated "$suite" deb-src "$dir")
            (cd "$dir" && apt-get "${options[@]}" update -qq &&
                apt-get "${options[@]}" source -qq --tar-only --download-only "$package") && mv "$dir/$file" "$out"
            ;;
        *) die "unknown kind of source: $location" ;;
    esac >&2
    local status=$?
    rm -rf "$dir"
    return $status
}

# source_by_digest SHA256 LOCATION...: prints the path of a file with that digest, from the cache or the first location
# that has it. Where it came from does not matter: the digest does.
source_by_digest() {
    local digest=$1 sources location file
    shift
    sources=$(cache_dir)/sources
    file=$sources/$digest
    mkdir -p "$sources"
    if [ ! -e "$file" ] || [ "$(sha256 "$file")" != "$digest" ]; then
        rm -f "$file"
        for location in "$@"; do
            say "fetching $location"
            if obtain "$location" "$file.part" && [ "$(sha256 "$file.part")" = "$digest" ]; then
                mv "$file.part" "$file"
                break
            fi
            [ -e "$file.part" ] && say "$location has SHA-256 $(sha256 "$file.part"), wanted $digest"
            rm -f "$file.part"
        done
    fi
    [ -e "$file" ] || die "no source with SHA-256 $digest was found; put such a file somewhere and pass --source file:PATH"
    printf '%s' "$file"
}
