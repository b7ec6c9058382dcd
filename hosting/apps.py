from django.apps import AppConfig


class HostingConfig(AppConfig):
    name = "hosting"

    def ready(self) -> None:
        from hosting import routing, signals
        from tenants.signals import api_key_changed, tenant_changed

        tenant_changed.connect(routing.on_tenant_changed, dispatch_uid="routing.tenant")
        api_key_changed.connect(routing.on_api_key_changed, dispatch_uid="routing.api_key")
        signals.server_changed.connect(routing.on_server_changed, dispatch_uid="routing.server")
        signals.sessions_ended.connect(routing.on_sessions_ended, dispatch_uid="routing.sessions")
        signals.environment_changed.connect(
            routing.on_environment_changed, dispatch_uid="routing.environment"
        )
