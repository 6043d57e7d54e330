#!/bin/sh
# Writes docker/.env with the names of .env.example and 48 random hexadecimal digits each. Never
# overwrites an existing file.
set -eu
cd "$(dirname "$0")"
if [ -e .env ]; then
    echo "docker/.env already exists; remove it first. Existing databases and users keep the passwords they were created with" >&2
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
