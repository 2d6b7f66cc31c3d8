// Answers nginx's `auth_request`: 204 if the Txn-Token of a request is valid right now and for the purpose of this
// place, else 401. Writ answers 200 for any token that it is asked about; what counts is `active` in its answer.

async function check(r) {
    const token = r.headersIn['Txn-Token'] || '';
    const purpose = r.variables.txn_purpose;
    const answer = await r.subrequest('/introspect', {
        method: 'POST',
        body: `token=${encodeURIComponent(token)}`,
    });
    r.return(answer.status === 200 && serves(answer.responseText, purpose) ? 204 : 401);
}

function serves(answer, purpose) {
    const claims = JSON.parse(answer);
    return claims.active === true && claims.scope.split(' ').includes(purpose);
}

export default { check };
