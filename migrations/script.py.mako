"""${message}

Revision: ${up_revision}, after ${down_revision | comma,n}.

BEFORE YOU MERGE THIS
- PostgreSQL queues every reader behind an ALTER that waits for its lock. `migrate` lets a
  statement wait 5 s at most (lock_timeout) and fails rather than stop the service: keep each
  statement quick, and build indexes CONCURRENTLY in a migration of their own.
- Servers of the version before this one are running while it is applied. Dropping or
  renaming a column takes two deploys: first a release that no longer uses it, then the
  migration. New columns are nullable or have a server default.
- Ledger rows are insert-only and their bodies are hashed: never rewrite a body. A table that
  batch mode re-creates on SQLite loses its triggers: create them again here.
- Give every constraint a name; SQLite drops unnamed CHECKs when a table is re-created.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
