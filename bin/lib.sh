# shellcheck shell=bash
# What the scripts of this directory share. It is sourced, never run; being sourced, it only completes PATH.

# The checkout, whatever directory the caller stands in.
# shellcheck disable=SC2034 # used by the scripts that source this
FOREBAY_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# The oldest PostgreSQL that forebay works with: SERVER_VERSION_MIN in src/sink/connect.rs.
PG_MAJOR_MIN=12
# Kafka 4 brokers need it.
JAVA_MAJOR_MIN=17

say() { printf '%s\n' "$*" >&2; }

die() {
  say "$(basename "$0"): $*"
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Prints the directory with initdb, pg_ctl and postgres, or fails. Debian keeps them out of PATH, one directory a major
# version. With an argument, only that major version will do: a data directory belongs to one.
pg_bin() {
  local wanted=${1:-} dir major best='' best_major=0
  for dir in ${FOREBAY_PG_BIN:+"$FOREBAY_PG_BIN"} /usr/lib/postgresql/*/bin /usr/pgsql-*/bin \
    "$(dirname "$(command -v postgres || echo /nonexistent/postgres)")"; do
    [[ -x $dir/initdb && -x $dir/pg_ctl && -x $dir/postgres ]] || continue
    major=$("$dir/postgres" --version | sed -nE 's/^[^0-9]*([0-9]+).*/\1/p')
    if [[ -n $wanted ]]; then
      [[ $major == "$wanted" ]] || continue
    elif ((major < PG_MAJOR_MIN)); then
      continue
    fi
    if [[ $dir == "${FOREBAY_PG_BIN:-}" ]]; then
      best=$dir
      break
    fi
    if ((major > best_major)); then
      best=$dir best_major=$major
    fi
  done
  [[ -n $best ]] && printf '%s\n' "$best"
}

# Prints the path of a Java that is new enough, or fails.
java_bin() { java_program java; }

# The same of a compiler.
javac_bin() { java_program javac; }

java_program() {
  local program major
  for program in ${JAVA_HOME:+"$JAVA_HOME/bin/$1"} "$(command -v "$1" || true)" /usr/lib/jvm/*/bin/"$1"; do
    [[ -x $program ]] || continue
    # openjdk version "17.0.15" 2025-04-15; javac 17.0.15; Java 8 calls itself 1.8. With JAVA_TOOL_OPTIONS another line comes
    # first.
    major=$("$program" -version 2>&1 | sed -nE 's/^(.* version "|javac )([0-9]+).*/\2/p')
    if [[ -n $major ]] && ((major >= JAVA_MAJOR_MIN)); then
      printf '%s\n' "$program"
      return 0
    fi
  done
  return 1
}

# Is anything listening on this port of the loopback interface?
port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A service of the system may have no HOME; cargo looks it up as well.
cargo_home() { printf '%s\n' "${CARGO_HOME:-${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}/.cargo}"; }

# A fresh rustup has not changed the PATH of shells that were open before.
if ! have cargo && [[ -x $(cargo_home)/bin/cargo ]]; then
  PATH=$(cargo_home)/bin:$PATH
fi

# True if cargo exists and is at least the version that Cargo.toml asks for.
cargo_is_new_enough() {
  local wanted found
  wanted=$(sed -nE 's/^rust-version = "([0-9.]+)"$/\1/p' "$FOREBAY_ROOT/Cargo.toml")
  have cargo && found=$(cd "$FOREBAY_ROOT" && cargo --version 2>/dev/null | cut -d' ' -f2) || return 1
  [[ -n $found && $(printf '%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1) == "$wanted" ]]
}
