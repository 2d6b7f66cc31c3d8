//! The parameters of a token request, which checks change one at a time.

use serde_json::{Map, Value};
use url::form_urlencoded::Serializer;

/// Parameters in order; a name can occur more than once.
#[derive(Clone)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn new(parameters: Vec<(String, String)>) -> Self {
        Self(parameters)
    }

    /// The first value of that name.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Replaces every parameter of that name by this one.
    pub(crate) fn set(self, name: &str, value: &str) -> Self {
        self.without(name).add(name, value)
    }

    /// Adds a parameter even if the name occurs already.
    pub(crate) fn add(mut self, name: &str, value: &str) -> Self {
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.0.retain(|(other, _)| other != name);
        self
    }

    /// As `application/x-www-form-urlencoded`.
    pub(crate) fn encode(&self) -> String {
        Serializer::new(String::new()).extend_pairs(&self.0).finish()
    }

    /// As the JSON object that some clients send instead.
    pub(crate) fn to_json(&self) -> String {
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
