"""Gets a Txn-Token with requests-oauthlib and prints it.

    python requests-oauthlib.py ISSUER CERTS CLIENT PURPOSE client_credentials [SUBJECT]
    python requests-oauthlib.py ISSUER CERTS CLIENT PURPOSE access_token FILE
    python requests-oauthlib.py ISSUER CERTS CLIENT PURPOSE unsigned_json SUBJECT

CERTS is the folder with ca.pem, CLIENT.pem and CLIENT.key. Exit code 1: Writ refused the request.
"""

import json
import pathlib
import sys
import time

from oauthlib.oauth2 import BackendApplicationClient
from requests_oauthlib import OAuth2Session

TRUST_DOMAIN = "trust-domain.example"  # yours
TYPE = "urn:ietf:params:oauth:token-type:"


class TokenExchangeClient(BackendApplicationClient):
    grant_type = "urn:ietf:params:oauth:grant-type:token-exchange"


class Refused(Exception):
    """An error response of Writ (RFC 6749 section 5.2)."""

    def __init__(self, response):
        answer = response.json()
        self.error, self.reason = answer["error"], answer["reason"]
        self.retry_after = int(response.headers.get("Retry-After", 1))
        super().__init__(f"{self.reason} ({response.status_code} {self.error}): {answer['error_description']}")


def refuse(response):
    """Runs before oauthlib parses the response, whose errors have neither `reason` nor headers."""
    if response.status_code != 200:
        raise Refused(response)
    return response


def txn_token(issuer, certs, client, **parameters):
    session = OAuth2Session(client=client)
    session.register_compliance_hook("access_token_response", refuse)
    answer = session.fetch_token(
        f"{issuer}/token",
        include_client_id=True,  # else an Authorization header is sent, which Writ refuses
        cert=(f"{certs}/{client.client_id}.pem", f"{certs}/{client.client_id}.key"),
        verify=f"{certs}/ca.pem",
        timeout=15,
        requested_token_type=f"{TYPE}txn_token",
        audience=TRUST_DOMAIN,
        **parameters,
    )
    if answer["issued_token_type"] != f"{TYPE}txn_token":
        raise ValueError("not a Txn-Token")
    return answer["access_token"]


def with_retry(request, attempts=3):
    """Repeats the request if the error is temporary, after the time in `Retry-After`."""
    while True:
        try:
            return request()
        except Refused as refused:
            attempts -= 1
            if refused.error != "temporarily_unavailable" or attempts == 0:
                raise
            print(f"{refused.reason}: retrying in {refused.retry_after} s", file=sys.stderr, flush=True)
            time.sleep(refused.retry_after)


def main(issuer, certs, client_id, purpose, source, *given):
    if source == "client_credentials":
        client = BackendApplicationClient(client_id, scope=[purpose])
        parameters = {"requested_subject": given[0]} if given else {}
    else:
        client = TokenExchangeClient(client_id, scope=[purpose])
        is_file = source == "access_token"
        subject = pathlib.Path(given[0]).read_text().strip() if is_file else json.dumps({"sub": given[0]})
        parameters = {"subject_token": subject, "subject_token_type": TYPE + source}
    print(with_retry(lambda: txn_token(issuer, certs, client, **parameters)))


if __name__ == "__main__":
    if len(sys.argv) < (6 if "client_credentials" in sys.argv else 7):
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    try:
        main(*sys.argv[1:])
    except Refused as refused:
        sys.exit(f"refused: {refused}")
