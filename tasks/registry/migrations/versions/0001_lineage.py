"""Create campaigns, iterations, artifacts and their edges, scores and reports."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "campaigns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("recipe", sa.Text(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("git_commit", sa.Text()),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_campaigns"),
    )
    op.create_table(
        "artifacts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seconds", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_artifacts"),
    )
    op.create_table(
        "iterations",
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("strategy", sa.Text()),
        sa.Column("decision", sa.JSON()),
        sa.Column("seconds", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name="fk_iterations_campaign_id_campaigns"
        ),
        sa.PrimaryKeyConstraint("campaign_id", "index", name="pk_iterations"),
    )
    op.create_table(
        "edges",
        sa.Column("child", sa.Text(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["child"], ["artifacts.id"], name="fk_edges_child_artifacts"),
        sa.ForeignKeyConstraint(["parent"], ["artifacts.id"], name="fk_edges_parent_artifacts"),
        sa.PrimaryKeyConstraint("child", "parent", "role", name="pk_edges"),
    )
    op.create_table(
        "campaign_artifacts",
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("iteration", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("artifact_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name="fk_campaign_artifacts_campaign_id_campaigns"
        ),
        sa.ForeignKeyConstraint(
            ["artifact_id"], ["artifacts.id"], name="fk_campaign_artifacts_artifact_id_artifacts"
        ),
        sa.PrimaryKeyConstraint(
            "campaign_id", "iteration", "role", "artifact_id", name="pk_campaign_artifacts"
        ),
    )
    op.create_table(
        "scores",
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("benchmark", sa.Text(), nullable=False),
        sa.Column("k", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("problems", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("avg", sa.Double(), nullable=False),
        sa.Column("lo", sa.Double(), nullable=False),
        sa.Column("hi", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("policy", "benchmark", "k", "problems", name="pk_scores"),
    )
    op.create_table(
        "reports",
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("iteration", sa.Integer(), nullable=False, autoincrement=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["campaign_id"], ["campaigns.id"], name="fk_reports_campaign_id_campaigns"
        ),
        sa.PrimaryKeyConstraint("campaign_id", "iteration", "role", name="pk_reports"),
    )
    op.create_index("ix_campaigns_name", "campaigns", ["name"])
    op.create_index("ix_artifacts_kind", "artifacts", ["kind"])
    op.create_index("ix_edges_parent", "edges", ["parent"])
    op.create_index("ix_campaign_artifacts_artifact_id", "campaign_artifacts", ["artifact_id"])
    op.create_index("ix_reports_policy", "reports", ["policy"])


def downgrade() -> None:
    for table in (
        "reports",
        "scores",
        "campaign_artifacts",
        "edges",
        "iterations",
        "artifacts",
        "campaigns",
    ):
        op.drop_table(table)
