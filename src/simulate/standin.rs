//! Small equivalents of what other modules will offer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};

pub(crate) mod g711 {
    pub(crate) fn decode_ulaw(ulaw: &[u8], pcm: &mut [i16]) {
        for (sample, &code) in pcm.iter_mut().zip(ulaw) {
            let code = !code;
            let magnitude = ((i32::from(code & 0x0F) * 2 + 33) << ((code >> 4) & 7)) - 33;
            let value = (magnitude * 4) as i16;
            *sample = if code & 0x80 == 0 { value } else { -value };
        }
    }

    pub(crate) fn encode_ulaw(pcm: &[i16], ulaw: &mut [u8]) {
        for (code, &sample) in ulaw.iter_mut().zip(pcm) {
            let linear = i32::from(sample) >> 2;
            let (sign, magnitude) = if linear < 0 { (0x80, -linear) } else { (0, linear) };
            let biased = (magnitude + 33).min(0x1FFF);
            let segment =
                (0..8).rev().find(|shift| biased >= 33 << shift && biased >= 1 << (shift + 5)).unwrap_or(0);
            let mantissa = (biased >> (segment + 1)) & 0x0F;
            *code = !(sign | (segment << 4) as u8 | mantissa as u8);
        }
    }
}

pub(crate) fn sign(token: &str, url: &str, params: &[(String, String)]) -> String {
    let mut params: Vec<_> = params.iter().collect();
    params.sort();
    let mut text = url.to_owned();
    for (name, value) in params {
        text.push_str(name);
        text.push_str(value);
    }
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(token.as_bytes()).expect("any key length is fine");
    mac.update(text.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}
