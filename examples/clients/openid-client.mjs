// Gets a Txn-Token with openid-client and prints it.
//
//     node openid-client.mjs ISSUER CERTS CLIENT PURPOSE access_token FILE
//     node openid-client.mjs ISSUER CERTS CLIENT PURPOSE unsigned_json SUBJECT
//
// CERTS is the folder with ca.pem, CLIENT.pem and CLIENT.key. Exit code 1: Writ refused the request.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import * as oauth from 'openid-client'
import * as undici from 'undici'

const TRUST_DOMAIN = 'trust-domain.example' // yours
const TYPE = 'urn:ietf:params:oauth:token-type:'
const [issuer, certs, clientId, purpose, source, input] = process.argv.slice(2)

/** The configuration of a client that authenticates with its certificate (RFC 8705). */
async function connect() {
  const dispatcher = new undici.Agent({
    connect: {
      ca: readFileSync(`${certs}/ca.pem`),
      cert: readFileSync(`${certs}/${clientId}.pem`),
      key: readFileSync(`${certs}/${clientId}.key`),
    },
  })
  return oauth.discovery(new URL(issuer), clientId, undefined, oauth.TlsClientAuth(), {
    algorithm: 'oauth2',
    [oauth.customFetch]: (url, options) => undici.fetch(url, { ...options, dispatcher }),
  })
}

/** Exchanges a subject token of the given type for a Txn-Token (RFC 8693). */
async function exchange(config, subjectToken, subjectTokenType) {
  const grant = 'urn:ietf:params:oauth:grant-type:token-exchange'
  const answer = await oauth.genericGrantRequest(config, grant, {
    requested_token_type: `${TYPE}txn_token`,
    audience: TRUST_DOMAIN,
    scope: purpose,
    subject_token: subjectToken,
    subject_token_type: subjectTokenType,
  })
  if (answer.issued_token_type !== `${TYPE}txn_token`) throw new Error('not a Txn-Token')
  return answer.access_token
}

/** An error response of Writ (RFC 6749 section 5.2). */
class Refused extends Error {
  constructor(response, { error, reason, error_description }) {
    super(`${reason} (${response.status} ${error}): ${error_description}`)
    this.reason = reason
    this.isTemporary = error === 'temporarily_unavailable'
    this.retryAfter = Number(response.headers.get('retry-after') ?? 1)
  }

  /** The library parses responses from 400 to 499. Its error for any other status contains the unread response. */
  static async from(error) {
    if (error instanceof oauth.ResponseBodyError) return new Refused(error.response, error.cause)
    if (error.code === 'OAUTH_RESPONSE_IS_NOT_CONFORM') return new Refused(error.cause, await error.cause.json())
    return error
  }
}

/** Repeats the request if the error is temporary, after the time in `Retry-After`. */
async function withRetry(request, attempts = 3) {
  for (;;) {
    try {
      return await request()
    } catch (thrown) {
      const error = await Refused.from(thrown)
      attempts -= 1
      if (!error.isTemporary || attempts === 0) throw error
      console.error(`${error.reason}: retrying in ${error.retryAfter} s`)
      await sleep(error.retryAfter * 1000)
    }
  }
}

try {
  if (source === 'client_credentials') {
    throw new Error('openid-client does not support client_credentials with Writ; use unsigned_json')
  }
  const config = await connect()
  const subject = {
    access_token: () => readFileSync(input, 'utf8').trim(),
    unsigned_json: () => JSON.stringify({ sub: input }),
  }[source]()
  console.log(await withRetry(() => exchange(config, subject, TYPE + source)))
} catch (error) {
  // Never log the whole error: it may contain the response, and so the token.
  console.error(error instanceof Refused ? `refused: ${error.message}` : error.message)
  if (error.cause instanceof Error) console.error(error.cause.message)
  process.exitCode = error instanceof Refused ? 1 : 2
}
