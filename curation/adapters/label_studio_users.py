"""Users of Label Studio, by ID and e-mail address."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from label_studio_sdk import LabelStudio


class Users:
    """The users of a Label Studio server, which are read once and again when one is unknown.

    Args:
        client: Client of the server.
    """

    def __init__(self, client: LabelStudio) -> None:
        self._client = client
        self._emails: dict[int, str] = {}
        self._own_account: tuple[int, str] | None = None

    def emails(self, *, fresh: bool = False) -> Mapping[int, str]:
        """Return the e-mail address of each user by ID.

        Args:
            fresh: Read them again.
        """
        if fresh or not self._emails:
            self._emails = {
                int(user.id): str(user.email).lower()
                for user in self._client.users.list()
                if user.id
            }
        return self._emails

    def email(self, user_id: int) -> str:
        """Return the e-mail address of a user, or an empty string for an unknown ID."""
        return self.emails().get(user_id) or self.emails(fresh=True).get(user_id, "")

    def find_or_create(self, email: str) -> int:
        """Return the ID of a user, who is created if needed."""
        found = next((id_ for id_, known in self.emails().items() if known == email), None)
        if found is not None:
            return found
        created = self._client.users.create(email=email, username=email.partition("@")[0])
        self._emails = {}
        return int(created.id)

    def own_account(self, *, fresh: bool = False) -> tuple[int, str]:
        """Return ID and e-mail address of the account that the token belongs to.

        Args:
            fresh: Read it again.
        """
        if fresh or self._own_account is None:
            found = self._client.users.whoami()
            self._own_account = int(found.id or 0), str(found.email).lower()
        return self._own_account

    def active(self, since: datetime) -> Collection[str]:
        """Return the addresses of users who were active since a time, except our own account."""
        own = self.own_account()[0]
        users = [user for user in self._client.users.list() if user.id and int(user.id) != own]
        return {
            str(user.email).lower()
            for user in users
            if user.last_activity and user.last_activity >= since
        }
