#!/bin/sh
# keep_ptxas_report.sh DIR NVCC...: runs nvcc; what ptxas says goes to DIR/<object>.txt instead of the terminal.
directory=$1
shift
mkdir -p "$directory"
object=none previous=
for argument in "$@"; do
  if [ "$previous" = -o ]; then object=$(basename "$argument"); fi
  previous=$argument
done
"$@" 2>"$directory/$object.err"
status=$?
grep -v '^ptxas info' "$directory/$object.err" | grep -vE '^ +[0-9]+ bytes (stack frame|cumulative)' >&2
mv "$directory/$object.err" "$directory/$object.txt"
exit "$status"
