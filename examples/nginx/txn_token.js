// Answers the `auth_request` of nginx: 204 if the Txn-Token is valid now and for the purpose of this location, otherwise
// 401. Writ answers 200 for invalid tokens too; the member `active` of the response decides.

async function check(r) {
    const token = r.headersIn['Txn-Token'] || '';
    const purpose = r.variables.txn_purpose;
    const answer = await r.subrequest('/introspect', {
        method: 'POST',
        body: `token=${encodeURIComponent(token)}`,
    });
    r.return(answer.status === 200 && isValidFor(answer.responseText, purpose) ? 204 : 401);
}

function isValidFor(answer, purpose) {
    const claims = JSON.parse(answer);
    return claims.active === true && claims.scope.split(' ').includes(purpose);
}

export default { check };
