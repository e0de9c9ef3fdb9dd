"""The client of an identity provider: every check of its answers fails when it should."""

from __future__ import annotations

import time
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from curation.adapters.oidc import IdentityProvider, InvalidProviderAnswer
from curation.errors import Unreachable
from tests.support.oidc_provider import CLIENT, OTHER_KEY, SECRET, oidc_provider
from tests.support.servers import free_port

CALLBACK = "http://127.0.0.1:8765/api/oidc/callback"


@pytest.fixture
def provider():
    with oidc_provider() as found:
        yield found


@pytest.fixture
def client(provider) -> IdentityProvider:
    return IdentityProvider(provider.issuer, CLIENT, SECRET, "openid profile")


def sign_in(client, change=lambda started: started):
    """Go to the provider as a browser does, and finish with the code."""
    started = client.start(CALLBACK)
    back = httpx.get(started.url).headers["location"]
    query = parse_qs(urlsplit(back).query)
    assert query["state"] == [started.state]
    return client.finish(CALLBACK, query["code"][0], change(started))


def test_the_claims_of_a_person_are_returned(provider, client):
    claims = sign_in(client)
    assert (claims["sub"], claims["preferred_username"]) == ("42", "Ada")
    [requested] = provider.authorized
    assert requested["response_type"] == "code"
    assert requested["code_challenge_method"] == "S256"
    assert requested["redirect_uri"] == CALLBACK
    assert requested["scope"] == "openid profile"
    assert len(requested["nonce"]) >= 20
    assert len(requested["state"]) >= 20
    sign_in(client)
    first, second = provider.authorized
    for name in ("state", "nonce", "code_challenge"):
        assert first[name] != second[name]


def changed(**values):
    return lambda claims: claims.update(values)


def without(name):
    return lambda claims: claims.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        changed(iss="https://other.example"),
        changed(aud="another-client"),
        changed(aud=["another-client", "third"]),
        changed(aud=[CLIENT, "another-client"], azp="another-client"),
        changed(nonce="another"),
        changed(exp=int(time.time()) - 120),
        changed(nbf=int(time.time()) + 3_600),
        *(without(name) for name in ("iss", "aud", "nonce", "exp", "iat", "sub")),
    ],
)
def test_an_id_token_that_fails_a_check_is_refused(provider, client, change):
    provider.change_claims = change
    with pytest.raises(InvalidProviderAnswer):
        sign_in(client)


def test_clocks_may_differ_by_a_minute(provider, client):
    provider.change_claims = changed(exp=int(time.time()) - 30, iat=int(time.time()) + 30)
    assert sign_in(client)["sub"] == "42"


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_without_a_signature_of_the_provider_is_refused(provider, client, algorithm):
    provider.algorithm = algorithm
    provider.change_metadata = lambda found: found.update(
        id_token_signing_alg_values_supported=["RS256", algorithm]
    )
    with pytest.raises(InvalidProviderAnswer):
        sign_in(client)
    provider.change_metadata = lambda found: found.update(
        id_token_signing_alg_values_supported=[algorithm]
    )
    other = IdentityProvider(provider.issuer, CLIENT, SECRET, "openid")
    with pytest.raises(InvalidProviderAnswer, match="are signed by"):
        other.start(CALLBACK)


def test_a_token_of_another_key_is_refused(provider, client):
    provider.key = OTHER_KEY
    with pytest.raises(InvalidProviderAnswer):
        sign_in(client)


def test_a_code_needs_the_verifier_of_its_start_and_works_once(provider, client):
    with pytest.raises(InvalidProviderAnswer, match="invalid_grant"):
        sign_in(client, lambda started: replace(started, code_verifier="x" * 48))
    with pytest.raises(InvalidProviderAnswer, match="invalid_grant"):
        client.finish(CALLBACK, "unknown", client.start(CALLBACK))


def test_an_answer_without_an_id_token_is_refused(provider, client):
    provider.change_token = without("id_token")
    with pytest.raises(InvalidProviderAnswer, match="no ID token"):
        sign_in(client)


@pytest.mark.parametrize(
    "change",
    [
        changed(issuer="https://other.example"),
        changed(token_endpoint="ftp://127.0.0.1/token"),
        without("token_endpoint"),
        without("jwks_uri"),
    ],
)
def test_metadata_of_another_issuer_or_with_other_endpoints_is_refused(provider, client, change):
    provider.change_metadata = change
    with pytest.raises(InvalidProviderAnswer):
        client.start(CALLBACK)


def test_userinfo_adds_claims_of_the_same_person_only(provider, client):
    provider.userinfo = {"sub": "42", "groups": ["team"], "preferred_username": "Eve"}
    claims = sign_in(client)
    assert (claims["groups"], claims["preferred_username"]) == (["team"], "Ada")
    provider.userinfo = {"sub": "43", "groups": ["admins"]}
    assert "groups" not in sign_in(client)


def test_the_session_at_the_provider_can_be_ended(provider, client):
    url = urlsplit(client.sign_out_url("http://127.0.0.1/sign-in"))
    query = parse_qs(url.query)
    assert url.path == "/end"
    assert query["client_id"] == [CLIENT]
    assert query["post_logout_redirect_uri"] == ["http://127.0.0.1/sign-in"]
    provider.change_metadata = without("end_session_endpoint")
    other = IdentityProvider(provider.issuer, CLIENT, SECRET, "openid")
    assert other.sign_out_url("http://127.0.0.1/sign-in") is None


def test_a_provider_that_does_not_answer_is_unreachable():
    client = IdentityProvider(f"http://127.0.0.1:{free_port()}", CLIENT, None, "openid")
    with pytest.raises(Unreachable, match="does not answer"):
        client.start(CALLBACK)
