//! The parameters of a request, to be bent.

use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;

/// Parameters in order; a name may be there more than once.
#[derive(Clone)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn new(parameters: Vec<(String, String)>) -> Self {
        Self(parameters)
    }

    /// The first value of that name.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Sets a parameter, once.
    pub(super) fn set(self, name: &str, value: &str) -> Self {
        self.without(name).add(name, value)
    }

    /// Adds a parameter, even if it is there already.
    pub(super) fn add(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a parameter out.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(other, _)| other != name);
        self
    }

    /// The body of a request.
    pub(super) fn encode(&self) -> String {
        Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }

    /// The same as the JSON that some clients send.
    pub(super) fn to_json(&self) -> String {
        let members = self.0.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
        Value::Object(members.collect::<Map<_, _>>()).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_repeated_and_left_out() {
        let form = Form::new(vec![("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert_eq!(form.clone().set("a", "x y").encode(), "b=2&a=x+y");
        assert_eq!(form.clone().add("a", "3").encode(), "a=1&b=2&a=3");
        assert_eq!(form.clone().without("a").encode(), "b=2");
        assert_eq!(form.value("b"), Some("2"));
        assert_eq!(form.to_json(), r#"{"a":"1","b":"2"}"#);
    }
}
