"""Documents written from results: tables, schemas, the output that README shows."""
