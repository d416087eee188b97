// What the page says, in its two languages.

const WORDS = {
  en: {
    other: "中文", key: "API key", use: "Use", compare: "Compare", fresh: "New chat", settings: "Settings",
    system: "system prompt", lines: "(one per line)", question: "Ask something", again: "Again", send: "Send",
    stop: "Stop", model: "Model", remove: "Remove this column", base: "base", gone: "not served any more",
    hint: "Enter sends · Shift+Enter breaks the line · Esc stops · / comes back to the question",
    tokens: (n) => (n === 1 ? "1 token" : `${n} tokens`), rate: (n) => `${n} tokens/s`,
    first: (n) => `first after ${n} ms`, stopped: (n) => `stopped after ${n} s`, length: "cut at max_tokens",
    unreachable: "The server does not answer.", cut: "The connection ended before the answer did.",
  },
  zh: {
    other: "English", key: "API 密钥", use: "使用", compare: "对比", fresh: "新对话", settings: "设置",
    system: "系统提示词", lines: "（每行一个）", question: "问点什么", again: "重新回答", send: "发送",
    stop: "停止", model: "模型", remove: "移除这一列", base: "基座", gone: "已下线",
    hint: "Enter 发送 · Shift+Enter 换行 · Esc 停止 · / 回到输入框",
    tokens: (n) => `${n} 个 token`, rate: (n) => `${n} token/秒`,
    first: (n) => `首个 token ${n} 毫秒`, stopped: (n) => `${n} 秒后停止`, length: "达到 max_tokens 上限",
    unreachable: "服务器没有响应。", cut: "回答还没结束，连接就断开了。",
  },
};

let language = sessionStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
