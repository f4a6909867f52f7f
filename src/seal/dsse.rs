//! DSSE: a payload, its type, and signatures over both (<https://github.com/secure-systems-lab/dsse>, protocol 1.0.0).

use base64::{Engine, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use super::key::key_id;

/// The type of an in-toto statement.
pub const IN_TOTO: &str = "application/vnd.in-toto+json";

/// An envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// What the payload is.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The payload, base64.
    pub payload: String,
    /// Its signatures.
    pub signatures: Vec<EnvelopeSignature>,
}

/// A signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvelopeSignature {
    /// Whose, as a hint: SHA-256 of the public key (SubjectPublicKeyInfo, DER), in hexadecimal.
    #[serde(default)]
    pub keyid: String,
    /// Ed25519 signature over the pre-authentication encoding, base64.
    pub sig: String,
}

/// What is signed: `DSSEv1`, the lengths, the type and the payload, so that neither can pass for the other.
fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

impl Envelope {
    /// Signs a payload.
    #[must_use]
    pub fn sign(payload_type: &str, payload: &[u8], key: &SigningKey) -> Self {
        let signature = key.sign(&pre_authentication_encoding(payload_type, payload));
        Self {
            payload_type: payload_type.to_owned(),
            payload: STANDARD.encode(payload),
            signatures: vec![EnvelopeSignature { keyid: key_id(&key.verifying_key()), sig: STANDARD.encode(signature.to_bytes()) }],
        }
    }

    /// The payload, whoever signed it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn payload(&self) -> Result<Vec<u8>, String> {
        if self.payload_type != IN_TOTO {
            return Err(format!("it holds {}, not {IN_TOTO}", self.payload_type));
        }
        STANDARD.decode(&self.payload).map_err(|e| format!("its payload: {e}"))
    }

    /// The payload, if one of the signatures is this key's.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn verified_payload(&self, key: &VerifyingKey) -> Result<Vec<u8>, String> {
        let payload = self.payload()?;
        let signed = pre_authentication_encoding(&self.payload_type, &payload);
        // The key id is a hint of whose it is, and no more: every signature is tried.
        let holds = |s: &EnvelopeSignature| {
            let bytes = STANDARD.decode(&s.sig).ok().and_then(|b| <[u8; 64]>::try_from(b).ok());
            bytes.is_some_and(|b| key.verify_strict(&signed, &Signature::from_bytes(&b)).is_ok())
        };
        if self.signatures.iter().any(holds) {
            return Ok(payload);
        }
        let id = key_id(key);
        Err(if self.signatures.iter().any(|s| s.keyid == id) {
            "its signature does not hold: the seal was changed".to_owned()
        } else {
            let by: Vec<&str> = self.signatures.iter().map(|s| s.keyid.as_str()).collect();
            format!("it is not signed by this key ({id}) but by {}", if by.is_empty() { "nobody".to_owned() } else { by.join(", ") })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encoding_is_the_specification_s_example() {
        let bytes = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(bytes, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn a_signature_holds_for_its_key_type_and_payload_only() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
        let envelope = Envelope::sign(IN_TOTO, b"{}", &key);
        assert_eq!(envelope.verified_payload(&key.verifying_key()).unwrap(), b"{}");
        assert!(envelope.verified_payload(&other).unwrap_err().contains("not signed by this key"));
        let changed = Envelope { payload: STANDARD.encode(b"{ }"), ..envelope.clone() };
        assert!(changed.verified_payload(&key.verifying_key()).unwrap_err().contains("does not hold"));
        let retyped = Envelope { payload_type: "application/json".to_owned(), ..envelope.clone() };
        assert!(retyped.verified_payload(&key.verifying_key()).is_err());
        let unsigned = Envelope { signatures: vec![], ..envelope };
        assert!(unsigned.verified_payload(&key.verifying_key()).unwrap_err().contains("nobody"));
    }
}
