from django.apps import AppConfig
from django.db.models.signals import post_migrate

from smcp.common.grants import apply_grants


class CommonConfig(AppConfig):
    name = "smcp.common"
    label = "common"

    def ready(self) -> None:
        # Signals fire app by app; the last one finds every table.
        post_migrate.connect(apply_grants, dispatch_uid="smcp.grants")
