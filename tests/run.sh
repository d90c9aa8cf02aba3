#!/usr/bin/env bash
# What `make test` runs, step by step; with `slow`, what `make test-all` runs.
set -euo pipefail
cd "$(dirname "$0")/.."
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}  # as `audiotag` has it: threads that wait soon give their core to the other worker

echo '== export and clean leave no diff'
before=$(cat nbs/*.ipynb audiotag/*.py | sha256sum)
nbdev-export
nbdev-clean
after=$(cat nbs/*.ipynb audiotag/*.py | sha256sum)
if [ "$before" != "$after" ]; then
  echo 'the library or the notebooks were out of date: nbdev-export and nbdev-clean have changed them; look at git diff and commit' >&2
  exit 1
fi

echo '== notebooks'
if [ "${1:-}" = slow ]; then nbdev-test --n-workers 2 --flags slow; else nbdev-test --n-workers 2; fi

echo '== pytest'
if [ "${1:-}" = slow ]; then python -m pytest -q tests; else python -m pytest -q -m 'not slow' tests; fi
