#!/bin/sh
# Creates or updates the roles and databases of the servers. It runs at every start, so that a
# password changed in .env takes effect. It connects as PGUSER to PGHOST with PGPASSWORD. Passwords
# reach psql through the environment, never on a command line.
set -eu

role() { # NAME PASSWORD_VARIABLE
    psql -qX -v ON_ERROR_STOP=1 -v role="$1" -v variable="$2" postgres <<'SQL'
\getenv password :variable
SELECT format('CREATE ROLE %I LOGIN', :'role') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'role') \gexec
SELECT format('ALTER ROLE %I PASSWORD %L', :'role', :'password') \gexec
SQL
}

database() { # NAME OWNER; nobody else may connect
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
