#!/bin/sh
# The roles and databases of the servers, made or brought up to date; run at every start, so a password changed in .env arrives as well.
# Connects as PGUSER to PGHOST with PGPASSWORD. Passwords reach psql by the environment, never by a command line.
set -eu

role() { # NAME, and the variable that holds its password
    psql -qX -v ON_ERROR_STOP=1 -v role="$1" -v variable="$2" postgres <<'SQL'
\getenv password :variable
SELECT format('CREATE ROLE %I LOGIN', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'role', :'password') \gexec
SQL
}

database() { # NAME and its owner; nobody else may connect to it
    psql -qX -v ON_ERROR_STOP=1 -v name="$1" -v owner="$2" postgres <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I', :'name', :'owner') WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'name') \gexec
SQL
}

role erpd ERPD_DB_PASSWORD
role prefect PREFECT_DB_PASSWORD
role mlflow MLFLOW_DB_PASSWORD
database erpd erpd
database prefect prefect
database mlflow mlflow
database mlflow_auth mlflow
