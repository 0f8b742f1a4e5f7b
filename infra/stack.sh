#!/bin/sh
# `make up` and `make down`. On standard output there are only lines of settings: eval "$(make -s up)".
# ONLINE=redis puts Valkey in Dragonfly's place. WAIT_S is how long all of them may take until they are healthy.
set -eu
cd "$(dirname "$0")"

say() { printf '%s\n' "$@" >&2; }
fail() { say "$@"; exit 1; }
processes="make up-local starts the same servers as plain processes, without containers."

# Both files and the profile: every service there is, whichever was started.
all() { docker compose -f docker-compose.yml -f docker-compose.redis.yml --profile dragonfly "$@"; }

engine() {
  command -v docker >/dev/null || fail "There is no container engine here: no docker in PATH." "$processes"
  docker compose version >/dev/null 2>&1 || fail "docker has no Compose here (docker compose, version 2)." "$processes"
  docker version >/dev/null 2>&1 || fail "The container engine does not answer. $(docker version 2>&1 >/dev/null | tail -n 1)" \
    "Start it (systemctl start docker, or Docker Desktop), or get the right to use it (group docker)." "$processes"
}

up() {
  case "${ONLINE:-dragonfly}" in
    dragonfly) online=dragonfly other=redis files="-f docker-compose.yml" ;;
    redis) online=redis other=dragonfly files="-f docker-compose.yml -f docker-compose.redis.yml" ;;
    *) fail "ONLINE is '$ONLINE', expected dragonfly or redis." ;;
  esac
  # shellcheck disable=SC2086
  compose() { docker compose $files "$@"; }

  # Docker refuses a limit above what the machine has, and the default is 2.
  cpus="$(docker info --format '{{.NCPU}}')"
  if [ -z "${INFRA_CPUS:-}" ] && [ "$cpus" -lt 2 ] && ! grep -q -s '^INFRA_CPUS=' .env; then export INFRA_CPUS="$cpus"; fi

  # Which passwords are empty, and which addresses the ports are bound to: as Compose read it from its files, .env and the environment.
  config="$(compose config)"
  open=""
  for pair in QDB_HTTP_PASSWORD:CIFT_QUESTDB_PASSWORD CIFT_CLICKHOUSE_PASSWORD:CIFT_CLICKHOUSE_PASSWORD REDISCLI_AUTH:CIFT_REDIS_PASSWORD; do
    if printf '%s\n' "$config" | grep -q "^ *${pair%:*}: \"\"\$"; then open="$open ${pair#*:}"; fi
  done
  beyond="$(printf '%s\n' "$config" | sed -n 's/^ *host_ip: *//p' | grep -v -x -F -e 127.0.0.1 -e ::1 | sort -u || true)"
  if [ -n "$beyond" ] && [ -n "$open" ]; then
    fail "INFRA_BIND is $beyond: other machines would reach servers that ask for no password." \
      "Set$open in infra/.env (infra/.env.example says how), or leave INFRA_BIND at 127.0.0.1."
  fi

  # The two share a port.
  if [ -n "$(all ps -q -a "$other")" ]; then all rm -s -f "$other" >&2; fi
  compose up -d --wait --wait-timeout "${WAIT_S:-180}" || {
    say "" "Not all of them became healthy:"
    compose ps -a >&2
    for sick in $(compose ps -a --format '{{.Service}} {{.Health}}' | sed -n '/ healthy$/!s/ .*//p'); do
      compose logs --no-color --tail 15 "$sick" >&2
    done
    fail "" "Where it says rlimit, the engine may not open that many files: set INFRA_NOFILE. Where images cannot be pulled:" "$processes"
  }

  at() { compose port "$1" "$2" | sed -e 's/^0\.0\.0\.0:/127.0.0.1:/' -e 's/^\[::\]:/127.0.0.1:/'; }
  say ""
  echo "export CIFT_QUESTDB_URL=http://$(at questdb 9000)"
  case "$open" in
    *CIFT_QUESTDB_PASSWORD*) ;;
    *) echo "export CIFT_QUESTDB_USER=$(printf '%s\n' "$config" | sed -n 's/^ *QDB_HTTP_USER: *//p')" ;;
  esac
  echo "export CIFT_CLICKHOUSE_URL=clickhouse://$(at clickhouse 9000)"
  echo "export CIFT_REDIS_URL=redis://$(at "$online" 6379)/0"
  say ""
  if [ -n "$open" ]; then
    say "No password is set ($(echo "$open" | sed 's/^ //')): for this machine alone, where every program can read and write." \
      "infra/.env.example says how to set one."
  fi
  if [ -f .env ]; then say "What infra/.env sets is not printed: set -a; . infra/.env; set +a"; fi
}

down() {
  all down
  say "Stopped. What they stored is kept: docker volume ls --filter label=com.docker.compose.project=cift"
}

engine
case "${1:-}" in
  up) up ;;
  down) down ;;
  *) fail "usage: infra/stack.sh up|down" ;;
esac
