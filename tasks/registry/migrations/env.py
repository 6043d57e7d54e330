"""Alembic's entry point: runs the migrations on the connection of `tasks.registry.database`.

They run in the transaction of that connection.
"""

from alembic import context

from tasks.registry.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
