//! Area AUTHN: authentication of the client and of the service.
