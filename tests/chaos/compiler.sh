#!/bin/sh
# A fake compiler: compiler.sh NAME SECONDS OUT. Its child writes the second part, like the real one's kernel JIT.
sleep 5 & late=$!  # lives too long unless somebody ends it
printf 'first part of %s\n' "$1" > "$3"
( sleep "$2"; printf 'second part, from a child\n' >> "$3" ) &
wait "$!" || exit 1
kill "$late"
printf 'third part of %s\n' "$1" >> "$3"
