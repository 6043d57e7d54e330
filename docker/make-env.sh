#!/bin/sh
# Write docker/.env: the names of .env.example, each with 48 random hexadecimal digits. One that is there already stays.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "docker/.env is there already; remove it first, and remember that databases and users keep the passwords they were made with" >&2
    exit 2
fi
umask 077
while IFS= read -r line; do
    case $line in
    [A-Z]*=) line=$line$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n') ;;
    esac
    printf '%s\n' "$line"
done <.env.example >.env.new
mv .env.new .env
