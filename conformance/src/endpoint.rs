//! The token endpoint of the target, and the valid request that checks start from.

use url::Url;

use crate::form::Form;
use crate::http::HttpError;
use crate::request::TokenRequest;
use crate::response::Response;
use crate::target::{Caller, Target};

pub(crate) struct TokenEndpoint {
    pub(crate) target: Target,
    pub(crate) url: Url,
    pub(crate) request: TokenRequest,
}

impl TokenEndpoint {
    /// Sends a token request as the client.
    pub(crate) async fn send(&self, form: &Form) -> Result<Response, HttpError> {
        self.target.post_form(Caller::Client, &self.url, form).await
    }

    pub(crate) async fn request_token(&self) -> Result<Response, HttpError> {
        self.send(&self.request.form()).await
    }
}
