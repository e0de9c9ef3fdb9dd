"""The settings of access: the identity provider, sessions and webhooks; a part of all settings."""

from __future__ import annotations

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from curation.domain import Role


class AccessSettings(BaseSettings):
    """Where people sign in beside one-time tokens, for how long, and where webhooks may go."""

    oidc_issuer: str | None = Field(
        None, description="URL of an OpenID provider at which people sign in"
    )
    oidc_client_id: str | None = Field(None, description="id of this client at that provider")
    oidc_client_secret: SecretStr | None = Field(
        None, description="secret of this client at that provider; none for a public client"
    )
    oidc_scope: str = Field("openid profile email", description="scopes to request there")
    oidc_name_claim: str = Field(
        "preferred_username", description="claim with the name that a new person gets"
    )
    oidc_roles_claim: str = Field(
        "groups", description="claim with a person's groups; dots lead into objects"
    )
    oidc_roles: dict[str, Role] = Field(
        {}, description='role of each group, as JSON: {"layerloop-reviewers": "annotator"}'
    )
    webhook_networks: str = Field(
        "",
        description=(
            "private networks, comma separated, that webhooks may go to, also without TLS; none "
            "when empty"
        ),
    )
    token: SecretStr | None = Field(
        None, description="API token to pull snapshots from an instance that is elsewhere"
    )
    session_hours: int = Field(12, ge=1, description="hours after which a session expires")
