import { wireHeader } from "./chrome.js";

wireHeader();
