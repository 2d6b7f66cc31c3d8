// Gets a Txn-Token with openid-client and prints it.
//
//     node openid-client.mjs ISSUER CERTS CLIENT PURPOSE access_token FILE
//     node openid-client.mjs ISSUER CERTS CLIENT PURPOSE unsigned_json SUBJECT
//
// CERTS is the folder with ca.pem, CLIENT.pem and CLIENT.key. Exit code 1: refused.

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import * as oauth from 'openid-client'
import * as undici from 'undici'

const TRUST_DOMAIN = 'trust-domain.example' // yours
const TYPE = 'urn:ietf:params:oauth:token-type:'
const [issuer, certs, clientId, purpose, source, input] = process.argv.slice(2)

/** The configuration of a client that proves who it is with its certificate. */
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

/** Exchanges a subject token of that type for a Txn-Token. */
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

/** What Writ said instead of a token. */
class Refused extends Error {
  constructor(response, { error, reason, error_description }) {
    super(`${reason} (${response.status} ${error}): ${error_description}`)
    this.reason = reason
    this.mayPass = error === 'temporarily_unavailable'
    this.retryAfter = Number(response.headers.get('retry-after') ?? 1)
  }

  /** The library reads answers from 400 to 499. For any other its error holds the response, unread. */
  static async from(error) {
    if (error instanceof oauth.ResponseBodyError) return new Refused(error.response, error.cause)
    if (error.code === 'OAUTH_RESPONSE_IS_NOT_CONFORM') return new Refused(error.cause, await error.cause.json())
    return error
  }
}

/** Asks again when Writ says that it is worth trying, after the time that it names. */
async function patiently(request, attempts = 3) {
  for (;;) {
    try {
      return await request()
    } catch (thrown) {
      const error = await Refused.from(thrown)
      attempts -= 1
      if (!error.mayPass || attempts === 0) throw error
      console.error(`${error.reason}: asking again in ${error.retryAfter} s`)
      await sleep(error.retryAfter * 1000)
    }
  }
}

try {
  if (source === 'client_credentials') {
    throw new Error('openid-client cannot do client_credentials with Writ; use unsigned_json')
  }
  const config = await connect()
  const subject = {
    access_token: () => readFileSync(input, 'utf8').trim(),
    unsigned_json: () => JSON.stringify({ sub: input }),
  }[source]()
  console.log(await patiently(() => exchange(config, subject, TYPE + source)))
} catch (error) {
  // Never the whole error: it may hold the answer, and so the token.
  console.error(error instanceof Refused ? `refused: ${error.message}` : error.message)
  if (error.cause instanceof Error) console.error(error.cause.message)
  process.exitCode = error instanceof Refused ? 1 : 2
}
