"""PostgreSQL: connections and transactions, tables, migrations and leases."""
