# shellcheck shell=bash
# Run by the MySQL image when it initialises its data, before it listens: the account that serves, without any right yet,
# and the owner's right to give it some. `frontrow migrate` gives them, table by table.
docker_process_sql <<SQL
CREATE USER 'frontrow_server'@'%' IDENTIFIED BY '$FRONTROW_SERVER_PASSWORD';
GRANT ALL PRIVILEGES ON frontrow.* TO 'frontrow'@'%' WITH GRANT OPTION;
SQL
