"""Add the times when an artifact's bytes were removed and when a campaign was forgotten."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("artifacts", sa.Column("removed_at", sa.DateTime(timezone=True)))
    op.add_column("campaigns", sa.Column("forgotten_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("campaigns", "forgotten_at")
    op.drop_column("artifacts", "removed_at")
