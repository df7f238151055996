//! Who a token's claims speak of: names taken from claims, or made by expressions in CEL, which see `claims` and, once it is made, `user`.

use super::configuration::{ClaimOrExpression, ExtraMapping, JwtAuthenticator, PrefixedClaimOrExpression};
use crate::authentication::UserInfo;
use api::cel::{self, Environment, Program, RUNTIME_BUDGET, Type, Val};
use serde_json::{Value, json};

/// Where a value comes from.
enum Source {
    /// A claim, behind a prefix.
    Claim(String, String),
    /// What this comes to.
    Expression(Program),
}

/// A rule that has to hold, and what is said when it does not.
struct Rule {
    program: Program,
    message: String,
}

/// What makes a user of claims.
pub struct Mapping {
    username: Source,
    groups: Option<Source>,
    uid: Option<Source>,
    extra: Vec<(String, Program)>,
    required: Vec<(String, String)>,
    claim_rules: Vec<Rule>,
    user_rules: Vec<Rule>,
}

fn compile(field: &str, expression: &str, variable: &str) -> Result<Program, String> {
    cel::compile(expression, &Environment::new(&[(variable, Type::DYN)])).map_err(|e| format!("{field}: compilation failed: {e}"))
}

fn evaluate(program: &Program, variable: &str, value: &Value) -> Result<Value, String> {
    let (result, _) = program.evaluate(&[(variable, Val::json(value))], RUNTIME_BUDGET);
    result.map(|value| value.to_json()).map_err(|e| e.to_string())
}

fn prefixed(field: &str, source: &PrefixedClaimOrExpression) -> Result<Option<Source>, String> {
    Ok(match (source.claim.as_str(), source.expression.as_str()) {
        ("", "") => None,
        (claim, "") => Some(Source::Claim(claim.to_owned(), source.prefix.clone().unwrap_or_default())),
        ("", expression) => Some(Source::Expression(compile(field, expression, "claims")?)),
        _ => return Err(format!("{field}: claim and expression can't both be set")),
    })
}

fn plain(field: &str, source: &ClaimOrExpression) -> Result<Option<Source>, String> {
    prefixed(field, &PrefixedClaimOrExpression { claim: source.claim.clone(), expression: source.expression.clone(), prefix: None })
}

/// A text or a list of texts; nothing at all where `null` stands.
fn texts(value: &Value) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("{value} is no string"));
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => items.iter().map(text).collect(),
        one => Ok(vec![text(one)?]),
    }
}

impl Source {
    /// The value and what stands before each of its texts.
    fn value(&self, claims: &Value) -> Result<(Value, &str), String> {
        match self {
            Source::Claim(claim, prefix) => Ok((claims.get(claim).cloned().unwrap_or_default(), prefix)),
            Source::Expression(program) => Ok((evaluate(program, "claims", claims)?, "")),
        }
    }

    fn one(&self, claims: &Value) -> Result<String, String> {
        let (value, prefix) = self.value(claims)?;
        let text = value.as_str().ok_or("it is no string")?;
        if text.is_empty() && matches!(self, Source::Expression(_)) {
            return Err("it is empty".to_owned());
        }
        Ok(format!("{prefix}{text}"))
    }

    fn several(&self, claims: &Value) -> Result<Vec<String>, String> {
        let (value, prefix) = self.value(claims)?;
        Ok(texts(&value)?.into_iter().map(|text| format!("{prefix}{text}")).collect())
    }
}

impl Mapping {
    /// By what was configured.
    pub fn new(configured: &JwtAuthenticator) -> Result<Self, String> {
        let mappings = &configured.claim_mappings;
        let username = prefixed("claimMappings.username", &mappings.username)?;
        let rule = |field: &str, variable: &str, expression: &str, message: &str| -> Result<Rule, String> {
            let message = if message.is_empty() { format!("validation expression {expression:?} failed") } else { message.to_owned() };
            Ok(Rule { program: compile(field, expression, variable)?, message })
        };
        let mut mapping = Mapping {
            username: username.ok_or("claimMappings.username: claim or expression is required")?,
            groups: prefixed("claimMappings.groups", &mappings.groups)?,
            uid: plain("claimMappings.uid", &mappings.uid)?,
            extra: Vec::new(),
            required: Vec::new(),
            claim_rules: Vec::new(),
            user_rules: Vec::new(),
        };
        for ExtraMapping { key, value_expression } in &mappings.extra {
            mapping.extra.push((key.clone(), compile("claimMappings.extra", value_expression, "claims")?));
        }
        for given in &configured.claim_validation_rules {
            match given.claim.as_str() {
                "" => mapping.claim_rules.push(rule("claimValidationRules", "claims", &given.expression, &given.message)?),
                claim => mapping.required.push((claim.to_owned(), given.required_value.clone())),
            }
        }
        for given in &configured.user_validation_rules {
            mapping.user_rules.push(rule("userValidationRules", "user", &given.expression, &given.message)?);
        }
        Ok(mapping)
    }

    /// Whom the claims speak of, if all rules hold.
    pub fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        if matches!(&self.username, Source::Claim(claim, _) if claim == "email") && claims.get("email_verified").is_some_and(|v| *v != true)
        {
            return Err("oidc: email not verified".to_owned());
        }
        let mut user =
            UserInfo { name: self.username.one(claims).map_err(|e| format!("oidc: parse username claims: {e}"))?, ..UserInfo::default() };
        if let Some(groups) = &self.groups {
            user.groups = groups.several(claims).map_err(|e| format!("oidc: parse groups claim: {e}"))?;
        }
        if let Some(uid) = &self.uid {
            user.uid = uid.one(claims).map_err(|e| format!("oidc: parse uid claim: {e}"))?;
        }
        for (key, program) in &self.extra {
            let values = evaluate(program, "claims", claims).and_then(|value| texts(&value));
            let mut values = values.map_err(|e| format!("oidc: error evaluating extra claim expression: {e}"))?;
            values.retain(|value| !value.is_empty());
            if !values.is_empty() {
                user.extra.insert(key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required {
            match claims.get(claim) {
                None => return Err(format!("oidc: required claim {claim} not present in ID token")),
                Some(value) if value.as_str() != Some(wanted) => {
                    return Err(format!("oidc: required claim {claim} value does not match. Got = {value}, want = {wanted}"));
                }
                Some(_) => {}
            }
        }
        hold(&self.claim_rules, "claims", claims)?;
        let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        hold(&self.user_rules, "user", &shown)?;
        Ok(user)
    }
}

fn hold(rules: &[Rule], variable: &str, value: &Value) -> Result<(), String> {
    for rule in rules {
        match evaluate(&rule.program, variable, value) {
            Ok(Value::Bool(true)) => {}
            Ok(_) => return Err(format!("oidc: {}", rule.message)),
            Err(error) => return Err(format!("oidc: error evaluating a validation expression: {error}")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(configured: Value, claims: Value) -> Result<UserInfo, String> {
        let mut whole =
            json!({"issuer": {"url": "https://x", "audiences": ["a"]}, "claimMappings": {"username": {"claim": "sub", "prefix": ""}}});
        json_patch::merge(&mut whole, &configured);
        Mapping::new(&serde_json::from_value(whole).unwrap())?.user(&claims)
    }

    #[test]
    fn claims_and_expressions_make_users() {
        let configured = json!({"claimMappings": {
            "username": {"claim": null, "prefix": null, "expression": "claims.email.split('@')[0] + ':' + claims.sub"},
            "groups": {"expression": "claims.roles.map(r, 'role:' + r)"}, "uid": {"claim": "id"},
            "extra": [{"key": "x.io/tenant", "valueExpression": "claims.?tenant.orValue('')"}, {"key": "x.io/all", "valueExpression": "claims.roles"}]}});
        let made = user(configured, json!({"sub": "s", "email": "e@x", "roles": ["a", "b"], "id": "7"})).unwrap();
        assert_eq!((made.name.as_str(), made.uid.as_str()), ("e:s", "7"));
        assert_eq!(made.groups, ["role:a", "role:b"]);
        assert_eq!(made.extra.into_iter().collect::<Vec<_>>(), [("x.io/all".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
    }

    #[test]
    fn what_does_not_hold_is_no_user() {
        let rules = json!({
            "claimValidationRules": [{"claim": "hd", "requiredValue": "x"}, {"expression": "claims.exp - claims.iat <= 60", "message": "too long"}],
            "userValidationRules": [{"expression": "!user.username.startsWith('system:')", "message": "reserved"}]});
        let good = json!({"sub": "a", "hd": "x", "iat": 1, "exp": 2});
        assert!(user(rules.clone(), good.clone()).is_ok());
        for (changed, why) in [
            (json!({"hd": null}), "oidc: required claim hd not present in ID token"),
            (json!({"hd": "y"}), "oidc: required claim hd value does not match. Got = \"y\", want = x"),
            (json!({"exp": 99}), "oidc: too long"),
            (json!({"sub": "system:masters"}), "oidc: reserved"),
        ] {
            let mut claims = good.clone();
            json_patch::merge(&mut claims, &changed);
            assert_eq!(user(rules.clone(), claims), Err(why.to_owned()));
        }
        let email = json!({"claimMappings": {"username": {"claim": "email"}}});
        assert_eq!(user(email, json!({"email": "a@x", "email_verified": false})), Err("oidc: email not verified".to_owned()));
        assert!(user(json!({"userValidationRules": [{"expression": "user."}]}), good).unwrap_err().contains("compilation failed"));
    }
}
