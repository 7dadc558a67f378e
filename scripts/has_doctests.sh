#!/usr/bin/env bash
# Succeeds when a doc comment holds a code block that rustdoc would compile: one that opens without a language or as rust.
set -euo pipefail
git ls-files -co --exclude-standard '*.rs' 2>/dev/null | { grep . || find . -name '*.rs' -not -path './target/*' -not -path './.cache/*'; } |
    xargs -r awk '
        FNR == 1 { open = 0 }
        /^[ \t]*\/\/[\/!][ \t]*```/ {
            open = !open
            sub(/^[ \t]*\/\/[\/!][ \t]*```/, "")
            if (open && $0 ~ /^(rust|no_run|should_panic|compile_fail|edition[0-9]+)?(,.*)?[ \t]*$/) found = 1
        }
        END { exit !found }'
